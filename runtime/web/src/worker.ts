/** The worker: holds recognizers, landmarkers and streams, and answers one request after the other. */

import type { Contents, Frame, Stored } from "./camera/graphs.ts";
import { CoreHand } from "./camera/hand.ts";
import { CoreLandmarker, type Picture } from "./camera/landmarker.ts";
import type { EngineFiles, EngineOptions } from "./engine.ts";
import { plainFromError } from "./errors.ts";
import type { OnProgress } from "./files.ts";
import type { Asked } from "./gpu.ts";
import type { ClipLike } from "./landmarks.ts";
import type { Gate } from "./live/settings.ts";
import { CoreStream } from "./live/stream.ts";
import type { Reply, Request } from "./messages.ts";
import { CoreRecognizer, type RecognizerOptions } from "./recognizer.ts";

const recognizers = new Map<number, CoreRecognizer>();
const landmarkers = new Map<number, CoreLandmarker>();
const streams = new Map<number, CoreStream>();
const hands = new Map<number, CoreHand>();

const there = <T>(objects: Map<number, T>, target: number): T => {
  const found = objects.get(target);
  if (!found) throw new Error("it was closed, or could not be made");
  return found;
};

/** An answer that comes by itself: the next request need not wait for it. */
class Later {
  constructor(readonly answer: Promise<unknown>) {}
}

/** Free a bitmap that was taken over. */
function closePicture(picture: unknown): void {
  if (typeof picture === "object" && picture !== null && "close" in picture) (picture as ImageBitmap).close();
}

const whatStreamSays = (stream: CoreStream) => ({ events: stream.events(), landmarks: stream.landmarks, persons: stream.persons });

const CALLS: Record<string, (target: number, args: any, onProgress: OnProgress) => unknown> = {
  async "recognizer.load"(target, [url, options, engine]: [string, RecognizerOptions, EngineOptions], onProgress) {
    const { made, why } = await CoreRecognizer.load(url, options, engine, onProgress);
    recognizers.set(target, made);
    const { artefact: { path, precision }, contract, bundle, backend } = made;
    return { backend, why, file: path, precision, contract, name: bundle.name, isCalibrated: bundle.abstention !== null };
  },
  "recognizer.predict": (target, [clip, name]: [ClipLike, string?]) => there(recognizers, target).predict(clip, name),
  "recognizer.logits": (target, [clip]: [Float32Array]) => there(recognizers, target).infer(clip),
  "recognizer.verify": (target) => there(recognizers, target).verify(),
  async "landmarker.load"(target, [recognizer, url, backend, packed]: [number, string, Asked, string[]], onProgress) {
    const { made, why } = await CoreLandmarker.load(url, there(recognizers, recognizer).engines, backend, packed, onProgress);
    landmarkers.set(target, made);
    return { sha256: made.sha256, backend: made.backend, why };
  },
  async "landmarker.find"(target, [picture]: [Picture]) {
    const landmarker = there(landmarkers, target);
    const { persons, landmarks } = await landmarker.find(picture).finally(() => closePicture(picture));
    return new Later(landmarks.then((found) => ({ landmarks: found, persons })));
  },
  async "hand.load"(target, [engine, base, contents]: [EngineFiles, string, Contents]) {
    hands.set(target, await CoreHand.load(engine, base, contents));
  },
  "hand.find": (target, [frame, points]: [Frame | null, Float32Array | null]) => there(hands, target).find(frame, points),
  "hand.verify": (target, [stored]: [Stored]) => there(hands, target).verify(stored),
  "landmarker.reset": (target) => there(landmarkers, target).reset(),
  "landmarker.verify": (target) => there(landmarkers, target).verify(),
  "stream.new"(target, [recognizer, gate, landmarker, settings]: [number, Gate, number | null, Record<string, unknown>]) {
    const finder = landmarker === null ? null : there(landmarkers, landmarker);
    streams.set(target, new CoreStream(there(recognizers, recognizer), gate, finder, settings));
  },
  async "stream.accept"(target, [frame, t_ms, dropped, persons]: [unknown, number, number, number | null]) {
    const stream = there(streams, target);
    try {
      await stream.accept(frame, t_ms, dropped, persons);
    } finally {
      closePicture(frame);
    }
    return whatStreamSays(stream);
  },
  async "stream.flush"(target) {
    const stream = there(streams, target);
    await stream.flush();
    return whatStreamSays(stream);
  },
  "stream.push": (target, [signing]: [boolean]) => there(streams, target).push(signing),
  "stream.reset": (target) => there(streams, target).reset(),
  close(target) {
    landmarkers.get(target)?.close();
    recognizers.get(target)?.close();
    for (const objects of [recognizers, landmarkers, streams]) objects.delete(target);
  },
};

let last: Promise<unknown> = Promise.resolve();

self.onmessage = ({ data: { id, call, target, args } }: MessageEvent<Request>) => {
  const reply = (message: Reply) => self.postMessage(message);
  const onProgress: OnProgress = (done, total, what) => reply({ id, progress: [done, total, what] });
  const refuse = (error: unknown) => reply({ id, error: plainFromError(error) });
  last = last.then(async () => {
    try {
      const value = await CALLS[call](target, args, onProgress);
      if (value instanceof Later) value.answer.then((later) => reply({ id, value: later }), refuse);
      else reply({ id, value });
    } catch (error) {
      refuse(error);
    }
  });
};
