/** The page: camera, video or recorded landmarks in, words out; and the proof that this browser computes right. */

import { arrayFrom } from "../bundle/npz.ts";
import { ValueError } from "../errors.ts";
import { BackendError, DataError, Landmarker, Recognizer, SignStream, logFromText, type Prediction, type StreamEvent } from "../index.ts";
import { tupleText } from "../python.ts";
import { at, drawSkeleton, fail, say, show } from "./view.ts";
import { FrameSource } from "./source.ts";

/** site.json, as `spoter-kit export --web` writes it. */
interface Site {
  name: string;
  precision: string;
  packed: string[];
  engine: { version: string; hashes: Record<string, string>; webgpu: boolean };
  landmarker: { bytes: number } | null;
}

let site: Site;
let recognizer: Recognizer;
let landmarker: Promise<Landmarker> | null = null;
let source: FrameSource | null = null;
/** Counts what was begun: what comes late from before is not shown. */
let begun = 0;

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
const progress = (done: number, total: number, what: string) => say(`loading ${what.split("/").pop()!.replace(/\.gz$/, "")}: ${megabytes(done)}${total > done ? ` of ${megabytes(total)}` : ""}`);

async function start(): Promise<void> {
  site = await readSite();
  document.title = `${site.name}: sign recognition`;
  at("name").textContent = site.name;
  recognizer = await Recognizer.load("bundle/", {
    worker: "worker.js",
    engine: "engine/",
    hashes: site.engine.hashes,
    packed: site.packed,
    precision: site.precision,
    onProgress: progress,
  });
  performance.mark("spoter:loaded");
  show.words(recognizer.labels);
  await proof();
  performance.mark("spoter:verified");
  for (const id of ["camera", "file"]) (at(id) as HTMLInputElement).disabled = false;
  if (!site.landmarker) {
    at("camera").hidden = true;
    at("no-landmarker").hidden = false;
    (at("file") as HTMLInputElement).accept = ".npy,.jsonl";
  }
}

async function readSite(): Promise<Site> {
  try {
    return await (await fetch("site.json", { cache: "no-cache" })).json();
  } catch (error) {
    throw new DataError(`site.json: cannot be read (${(error as Error).message})`, "copy the whole site again, and start its server");
  }
}

/** Replay the bundle's goldens, and show whether they agree. */
async function proof(): Promise<void> {
  const found = await recognizer.verify();
  const words = `${found.labels_agree} of ${found.clips} stored answers agree`;
  const largest = found.max_logit_diff === null ? "none is a number" : found.max_logit_diff.toExponential(1);
  at("proof").dataset.passed = String(found.passed);
  const rows = {
    "stored answers of the trained model": words,
    "largest difference of a score before softmax": `${largest} (allowed ${found.tolerance})`,
    engine: `ONNX Runtime Web ${site.engine.version}, ${recognizer.backend}, ${recognizer.precision}`,
    "signs that it knows": String(recognizer.labels.length),
    "can say that there was no sign": recognizer.isCalibrated ? "yes" : "no: it answers every movement",
  };
  for (const [name, value] of Object.entries(rows)) show.row("proof-rows", name, value);
  if (!found.passed) return fail(`This browser computes other answers than the trained model: ${words}. Do not rely on it.`);
  say(`ready: ${words}`);
}

/** Load the landmarker when it is first needed: it is larger than all else. */
async function haveLandmarker(): Promise<Landmarker> {
  landmarker ??= loadLandmarker(); // once, also where another video is opened meanwhile
  try {
    const found = await landmarker;
    await found.reset();
    return found;
  } catch (error) {
    landmarker = null;
    throw error;
  }
}

async function loadLandmarker(): Promise<Landmarker> {
  // A clip takes a few milliseconds without a GPU; a picture ten times as long.
  const loaded = await Landmarker.load("landmarker/", recognizer, progress, site.engine.webgpu ? "auto" : "wasm");
  if (!(await loaded.verify()).passed) {
    await loaded.close();
    throw new BackendError("the landmarker gives other answers in this browser than where it was made", "open recorded landmarks: .npy or .jsonl");
  }
  const { backend, why } = loaded;
  show.row("proof-rows", "landmarks", why.webgpu ? `${backend}; WebGPU: ${why.webgpu}` : backend);
  return loaded;
}

/** Run a source of pictures to its end, or until somebody stops it. */
async function watch(open: () => Promise<FrameSource>): Promise<void> {
  stop();
  const mine = begun;
  const isShown = () => mine === begun;
  const told = (events: StreamEvent[]) => {
    if (isShown()) tell(events);
  };
  const opened = await open();
  if (!isShown()) return opened.close();
  source = opened;
  at("stop").hidden = false;
  const finder = await haveLandmarker();
  if (source !== opened) return isShown() ? say("stopped") : undefined; // while it was loading
  const stream = new SignStream(recognizer);
  show.begin(opened.video, opened.isMirrored);
  say("watching: raise your hands to sign, let them down after each sign");
  let before: Promise<void> = Promise.resolve();
  for await (const { picture, t_ms, dropped } of opened.frames()) {
    const finding = finder.find(picture); // while the hands of the frame before are looked for
    finding.catch(() => undefined); // taken below
    await before;
    const found = async (landmarks: Float32Array) => {
      await stream.accept(landmarks, t_ms, { dropped, persons: finder.persons });
      if (isShown()) drawSkeleton(stream.landmarks, t_ms);
      told(stream.events());
    };
    const failed = (error: unknown) => {
      if (!(error instanceof BackendError)) throw error;
      told([{ type: "fault", t_ms, code: "landmarker", reason: error.message }]); // the next frame may be sound
    };
    before = finding.then(found, failed);
    before.catch(() => undefined); // thrown by the await above, or by the one below
  }
  await before;
  await stream.flush();
  told(stream.events());
  await stream.close();
  if (source === opened) stop("ended");
  else if (isShown()) say("stopped"); // the last events have said something else
}

function tell(events: StreamEvent[]): void {
  for (const event of events) {
    performance.mark(`spoter:${event.type}`);
    show.event(event);
  }
}

function stop(words = ""): void {
  source?.close();
  source = null;
  at("stop").hidden = true;
  if (words) say(words);
}

async function openFile(file: File): Promise<void> {
  if (/\.npy$/i.test(file.name)) return answered(await clipFrom(file));
  if (/\.jsonl$/i.test(file.name)) return replayed(file);
  if (!site.landmarker) throw new DataError("this site has no landmarker, so it cannot take videos", "open recorded landmarks: .npy or .jsonl");
  await watch(() => FrameSource.file(file));
}

async function clipFrom(file: File): Promise<Float32Array> {
  try {
    const { data, shape } = arrayFrom(new Uint8Array(await file.arrayBuffer()));
    if (!["108", "54,2"].includes(shape.slice(1).join())) throw new ValueError(`expected (frames, 54, 2) or (frames, 108), got ${tupleText(shape)}`);
    if (data instanceof Float32Array) return data;
    if (data instanceof Float64Array) return Float32Array.from(data);
    throw new ValueError("its numbers are not floats");
  } catch (error) {
    if (error instanceof ValueError) throw new DataError(`${file.name}: cannot be read: ${error.message}`, "numpy.save('clip.npy', numpy.ascontiguousarray(landmarks, 'float32'))");
    throw error;
  }
}

async function answered(clip: Float32Array): Promise<void> {
  stop();
  show.begin();
  const found: Prediction = await recognizer.predict(clip, "the clip");
  show.answer(found);
  say(`answered in ${found.latency_ms.toFixed(1)} ms`);
  const frames = clip.length / 108;
  drawSkeleton(clip.subarray(108 * Math.floor(frames / 2), 108 * Math.floor(frames / 2) + 108), 0);
}

async function replayed(file: File): Promise<void> {
  stop();
  const log = logFromText(await file.text(), file.name);
  show.begin();
  const stream = new SignStream(recognizer, log.gate, { settings: log.settings });
  for (const frame of log.frames) {
    await stream.accept(frame.landmarks, frame.t_ms, frame);
    drawSkeleton(stream.landmarks, frame.t_ms);
    tell(stream.events());
  }
  await stream.flush();
  tell(stream.events());
  await stream.close();
  say(`replayed ${log.frames.length} frames`);
}

/** Begin something, and say what went wrong with it. */
function begin(doing: () => Promise<void>): void {
  at("error").hidden = true;
  const mine = ++begun;
  doing().catch((error: Error) => {
    if (mine !== begun) return;
    stop();
    fail(error.message);
  });
}

at("camera").onclick = () => begin(() => watch(() => FrameSource.camera()));
at("stop").onclick = () => {
  stop("stopped");
  at("camera").focus();
};
(at("file") as HTMLInputElement).onchange = (event) => {
  const input = event.target as HTMLInputElement;
  const file = input.files?.[0];
  input.value = "";
  if (file) begin(() => openFile(file));
};
begin(start);
if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("sw.js").then(
    async ({ installing }) => {
      installing?.addEventListener("statechange", () => {
        if (installing.state === "redundant") at("offline").textContent = "The page needs its server each time: a file there is missing, or was changed.";
      });
      await navigator.serviceWorker.ready;
      const later = site?.landmarker ? ", camera and videos after their first use" : "";
      at("offline").textContent = `This page works without a network from now on${later}.`;
      performance.mark("spoter:offline");
    },
    () => (at("offline").textContent = "This browser keeps nothing, so the page needs its server each time."),
  );
}
