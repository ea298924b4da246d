/** Recognise signs in a browser: the objects of the Python runtime by the same names. All work is done in a worker. */

import type { Contract, Label } from "./bundle/contract.ts";
import type { Replay } from "./bundle/goldens.ts";
import type { Picture } from "./camera/landmarker.ts";
import { checkBrowser, type BackendName, type EngineOptions } from "./engine.ts";
import { ConfigError } from "./errors.ts";
import type { OnProgress } from "./files.ts";
import type { Asked, Why } from "./gpu.ts";
import type { ClipLike } from "./landmarks.ts";
import type { StreamEvent } from "./live/events.ts";
import { GATES, fittedSettings, type Gate, type StreamSettings } from "./live/settings.ts";
import { Remote } from "./remote.ts";
import type { Prediction, RecognizerOptions } from "./recognizer.ts";

export { BackendError, BundleError, ConfigError, DataError, InputError, NotFiniteError, SpoterError } from "./errors.ts";
export { BONES, NUM_LANDMARKS } from "./landmarks.ts";
export { logFromText, type LandmarkLog, type LogFrame } from "./live/log.ts";
export { DEFAULTS as STREAM_SETTINGS } from "./live/settings.ts";
export type * from "./live/events.ts";
export type { Asked, BackendName, ClipLike, Contract, Gate, Label, OnProgress, Picture, Prediction, Replay, StreamSettings, Why };

export interface LoadOptions extends RecognizerOptions, Partial<EngineOptions> {
  /** The worker's script; by default `worker.js` beside this one. */
  worker?: string | URL;
  onProgress?: OnProgress;
}

const absolute = (url: string | URL, base: string | URL = document.baseURI) => new URL(url, base);

interface Loaded {
  backend: BackendName;
  why: Why;
  file: string;
  precision: string;
  contract: Contract;
  name: string;
  isCalibrated: boolean;
}

/** Recognise signs in clips of landmarks. */
export class Recognizer {
  private constructor(readonly remote: Remote, readonly handle: number, private readonly loaded: Loaded, readonly packed: readonly string[]) {}

  /**
   * Load a bundle.
   *
   * @param url the bundle's folder.
   * @throws BundleError: missing, damaged, newer, or not a bundle. BackendError: it cannot run in this browser.
   */
  static async load(url: string | URL, options: LoadOptions = {}): Promise<Recognizer> {
    checkBrowser();
    const { worker = new URL("./worker.js", import.meta.url), engine = new URL("./engine/", import.meta.url).href, threads = 1, hashes = {}, packed = [], onProgress, ...rest } = options;
    const remote = new Remote(absolute(worker));
    const handle = remote.number();
    const where: EngineOptions = { engine: absolute(engine).href, threads, hashes, packed };
    try {
      const loaded = await remote.ask<Loaded>("recognizer.load", handle, [absolute(url).href, rest, where], { onProgress });
      return new Recognizer(remote, handle, loaded, packed);
    } catch (error) {
      remote.close();
      throw error;
    }
  }

  get name(): string {
    return this.loaded.name;
  }

  /** The engine's backend in use. */
  get backend(): BackendName {
    return this.loaded.backend;
  }

  /** Why WebGPU was taken or left, where it was asked for. */
  get why(): Why {
    return this.loaded.why;
  }

  /** The bundle's file that it runs. */
  get file(): string {
    return this.loaded.file;
  }

  get precision(): string {
    return this.loaded.precision;
  }

  get contract(): Contract {
    return this.loaded.contract;
  }

  get labels(): Label[] {
    return this.loaded.contract.labels;
  }

  /** Whether the bundle can say that a clip shows no sign. */
  get isCalibrated(): boolean {
    return this.loaded.isCalibrated;
  }

  /**
   * Return the sign in one clip: (frames, 54, 2) raw image coordinates, NaN, null or (0, 0) where not detected.
   *
   * @throws InputError: the message says what to do.
   */
  predict(clip: ClipLike, name?: string): Promise<Prediction> {
    return this.remote.ask("recognizer.predict", this.handle, [clip, name]);
  }

  /** Return the logits of one clip (frames × 108 numbers), also of one in which nothing was detected. */
  logits(clip: Float32Array): Promise<Float32Array> {
    return this.remote.ask("recognizer.logits", this.handle, [clip]);
  }

  /** Replay the bundle's goldens in this browser. */
  verify(): Promise<Replay> {
    return this.remote.ask("recognizer.verify", this.handle);
  }

  /** End the worker, with all that was made in it. */
  close(): void {
    this.remote.close();
  }
}

/** Finds the landmarks of one person in the frames of one video, in their order. */
export class Landmarker {
  /** How many persons were seen when the body was last looked for. */
  persons = 0;

  /** @param why WebGPU was taken or left, where it was asked for. */
  private constructor(readonly remote: Remote, readonly handle: number, readonly sha256: string, readonly backend: BackendName, readonly why: Why) {}

  /** Load a landmarker's folder into the worker of a recognizer. */
  static async load(url: string | URL, recognizer: Recognizer, onProgress?: OnProgress, backend: Asked = "wasm"): Promise<Landmarker> {
    const { remote } = recognizer;
    const handle = remote.number();
    const asked = [recognizer.handle, absolute(url).href, backend, recognizer.packed];
    const found = await remote.ask<{ sha256: string; backend: BackendName; why: Why }>("landmarker.load", handle, asked, { onProgress });
    return new Landmarker(remote, handle, found.sha256, found.backend, found.why);
  }

  /**
   * Return the landmarks (54, 2) in 0..1 of a picture, NaN where not detected; a bitmap is taken over.
   *
   * The next picture may follow at once: its body is found while the hands of this one are looked for.
   */
  async find(picture: Picture): Promise<Float32Array> {
    const found = await this.remote.ask<{ landmarks: Float32Array; persons: number }>("landmarker.find", this.handle, [picture], { transfer: transferable(picture) });
    this.persons = found.persons;
    return found.landmarks;
  }

  /** Free the networks, and end the hands' workers. */
  close(): Promise<void> {
    return this.remote.ask("close", this.handle);
  }

  /** Replay the stored answers of each network in this browser. */
  verify(): Promise<{ passed: boolean; differences: Record<string, number> }> {
    return this.remote.ask("landmarker.verify", this.handle);
  }

  /** Forget the frames before: the next one belongs to another video. */
  reset(): Promise<void> {
    return this.remote.ask("landmarker.reset", this.handle);
  }
}

const transferable = (frame: unknown): Transferable[] => (frame instanceof ImageBitmap || (typeof VideoFrame === "function" && frame instanceof VideoFrame) ? [frame] : []);

/** Recognise signs in a stream of frames. The same frames with the same times give the same events as in Python. */
export class SignStream {
  readonly settings: StreamSettings;
  /** Landmarks of the last frame; null where it was left out. */
  landmarks: Float32Array | null = null;
  /** Persons in the last frame; null: not known. */
  persons: number | null = null;
  private readonly remote: Remote;
  private readonly handle: number;
  private readonly made: Promise<void>;
  private pending: StreamEvent[] = [];

  /**
   * @param gate finds the segments: "rest" between rests, "window" without rests, "push" where `push` says.
   * @throws ConfigError: no such gate, or a wrong setting.
   */
  constructor(recognizer: Recognizer, gate: Gate = "rest", { landmarker, settings = {} }: { landmarker?: Landmarker | null; settings?: Partial<StreamSettings> } = {}) {
    if (!GATES.includes(gate)) throw new ConfigError(`gate '${gate as string}': expected ${GATES.join(", ")}`);
    this.settings = fittedSettings(settings, recognizer.contract.max_frames);
    this.remote = recognizer.remote;
    this.handle = this.remote.number();
    this.made = this.remote.ask("stream.new", this.handle, [recognizer.handle, gate, landmarker?.handle ?? null, settings]);
    this.made.catch(() => undefined); // `accept` throws it
  }

  /** Take the next frame: landmarks (54 points or 108 numbers), or a picture; a bitmap is taken over. */
  async accept(frame: Picture | ArrayLike<unknown>, t_ms: number, { dropped = 0, persons = null }: { dropped?: number; persons?: number | null } = {}): Promise<void> {
    await this.made;
    this.take(await this.remote.ask("stream.accept", this.handle, [frame, t_ms, dropped, persons], { transfer: transferable(frame) }));
  }

  /** End what goes on: no frame will come any more. */
  async flush(): Promise<void> {
    await this.made;
    this.take(await this.remote.ask("stream.flush", this.handle));
  }

  /** Say that a sign begins or ends with the next frame; for the gate "push". */
  push(signing: boolean): Promise<void> {
    return this.remote.ask("stream.push", this.handle, [signing]);
  }

  /** Forget everything: another video begins. */
  async reset(): Promise<void> {
    this.pending = [];
    this.landmarks = this.persons = null;
    await this.remote.ask("stream.reset", this.handle);
  }

  /** Return the events since the last call, in their order. */
  events(): StreamEvent[] {
    const found = this.pending;
    this.pending = [];
    return found;
  }

  /** Free what the worker keeps of it. */
  close(): Promise<void> {
    return this.remote.ask("close", this.handle);
  }

  private take({ events, landmarks, persons }: { events: StreamEvent[]; landmarks: Float32Array | null; persons: number | null }): void {
    this.pending.push(...events);
    this.landmarks = landmarks;
    this.persons = persons;
  }
}
