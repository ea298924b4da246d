/** The landmarker inside the worker: one frame after the other to the 54 landmarks. The picture's part is in the graphs. */

import type * as Ort from "onnxruntime-common";
import { namesOf, readArrays } from "../bundle/npz.ts";
import { BackendError, BundleError, InputError, ValueError } from "../errors.ts";
import { checkDigest, fetched, type OnProgress } from "../files.ts";
import { openSession } from "../engine.ts";
import { LEFT_HAND, MEDIAPIPE_POSE, NUM_FEATURES, RIGHT_HAND } from "../landmarks.ts";
import { OneEuroFilter } from "./smoothing.ts";

/** A picture: RGBA pixels, or something that can be drawn. */
export type Picture = ImageData | ImageBitmap | VideoFrame;

const GRAPHS = ["pose_detection", "pose", "recrop", "hand"] as const;
type Graph = (typeof GRAPHS)[number];
type Run = (graph: Graph, inputs: Record<string, Ort.Tensor>) => Promise<Float32Array[]>;

const MANIFEST = "landmarker.json";
const FETCH = "spoter-kit landmarker fetch --force";
const TOLERANCE = 5e-3; // as in Python: of the goldens, relative to values above 1
const PRESENT = 0.5;
const ANOTHER = 0.15; // as in Python
const VISIBLE = 0.1;
const VISIBILITY_WEIGHT = 0.1;
const ELAPSED_S = 1 / 30; // MediaPipe's Python takes it for every video, and models are trained on what it gave
const MOVED = 0.15;

/** One hand of the signer, and where it was in the last frame; NaN where it was not found. */
class Hand {
  landmarks: Float32Array = new Float32Array(42).fill(NaN);
  region: Float32Array = new Float32Array(4).fill(NaN);
  wrist: readonly [number, number] = [NaN, NaN];

  constructor(readonly first: number, readonly pose: readonly number[]) {}

  lose(): void {
    this.landmarks = new Float32Array(42).fill(NaN);
    this.region = new Float32Array(4).fill(NaN);
  }
}

/** Finds the landmarks of one person in the frames of one video, in their order. */
export class CoreLandmarker {
  /** How many were seen when the body was last looked for: 0, 1, or 2 for more than one. */
  persons = 0;
  private readonly body = new OneEuroFilter(0.05, 80);
  private readonly bodyRegion = new OneEuroFilter(0.01, 10);
  private size = "";
  private region: Float32Array | null = null;
  private visibility: Float32Array | null = null;
  private hands: Hand[] = [];
  private canvas: OffscreenCanvas | null = null;

  constructor(private readonly ort: typeof Ort, private readonly run: Run, readonly sha256: string, private readonly readGoldens: () => Promise<Map<string, Ort.Tensor>>) {
    this.reset();
  }

  /** Load the graphs from a folder; each is compared with its hash. */
  static async load(url: string, ort: typeof Ort, packed: readonly string[], onProgress?: OnProgress): Promise<CoreLandmarker> {
    const base = url.endsWith("/") ? url : `${url}/`;
    const stated = await readManifest(base);
    const read = async (name: string) => {
      const content = await fetched(base + name, { packed: packed.includes(name), onProgress });
      if (!content) throw new BundleError(`${base}${name}: is missing`, FETCH);
      await checkDigest(base + name, content, stated.hashes[name], FETCH);
      return content;
    };
    const sessions = {} as Record<Graph, Ort.InferenceSession>;
    for (const name of GRAPHS) sessions[name] = await openSession(ort, await read(`${name}.onnx`), `${base}${name}.onnx`);
    const run: Run = async (graph, inputs) => {
      try {
        const found = await sessions[graph].run(inputs);
        return sessions[graph].outputNames.map((name) => found[name].data as Float32Array);
      } catch (error) {
        throw new BackendError(`${graph}.onnx: ONNX Runtime Web failed: ${(error as Error).message ?? error}`);
      }
    };
    return new CoreLandmarker(ort, run, stated.sha256, () => goldensFrom(ort, base));
  }

  /** Forget the frames before: the next one belongs to another video. */
  reset(): void {
    this.size = "";
    this.loseBody();
  }

  private loseBody(): void {
    this.region = this.visibility = null;
    this.body.reset();
    this.bodyRegion.reset();
    this.hands = [new Hand(LEFT_HAND, [15, 17, 19]), new Hand(RIGHT_HAND, [16, 18, 20])];
  }

  /** Return the landmarks (54, 2) in 0..1 of the picture, NaN where not detected. */
  async find(picture: Picture): Promise<Float32Array> {
    const { width, height, rgb } = this.pixelsOf(picture);
    if (this.size !== `${width}×${height}`) this.loseBody(); // regions are in pixels
    this.size = `${width}×${height}`;
    const frame = new this.ort.Tensor("uint8", rgb, [height, width, 3]);
    const found = new Float32Array(NUM_FEATURES).fill(NaN);
    const pose = await this.findBody(frame, width, height);
    if (!pose) {
      this.loseBody();
      return found;
    }
    for (const [landmark, sources] of MEDIAPIPE_POSE.entries()) {
      const [a, b] = [sources[0], sources[sources.length - 1]];
      for (const axis of [0, 1]) found[2 * landmark + axis] = Math.fround(pose[2 * a + axis] + pose[2 * b + axis]) / 2;
    }
    for (const hand of this.hands) {
      await this.findHand(frame, hand, pose, width, height);
      found.set(hand.landmarks, 2 * hand.first);
    }
    return found;
  }

  /** Return MediaPipe's 33 points of the body, smoothed over time. */
  private async findBody(frame: Ort.Tensor, width: number, height: number): Promise<Float32Array | null> {
    let region = this.region;
    if (!region) {
      const [found, score, other] = await this.run("pose_detection", { frame });
      this.persons = score[0] < PRESENT ? 0 : 1 + Number(other[0] >= ANOTHER);
      if (score[0] < PRESENT) return null;
      region = found;
    }
    const [landmarks, ends, visibility, presence] = await this.run("pose", { frame, region: this.tensor(region, [1, 4]) });
    if (presence[0] <= PRESENT) return null;
    const seen = this.visibility;
    this.visibility = seen ? visibility.map((value, i) => seen[i] + VISIBILITY_WEIGHT * (value - seen[i])) : visibility.slice();
    const inPixels = (points: Float32Array) => Float64Array.from(points, (value, i) => value * (i % 2 ? height : width));
    const at = inPixels(ends);
    const scale = 2 * Math.hypot(at[2] - at[0], at[3] - at[1]);
    const smooth = this.body.next(inPixels(landmarks), ELAPSED_S, scale);
    const [hipX, hipY, endX, endY] = this.bodyRegion.next(at, ELAPSED_S, scale);
    this.region = Float32Array.of(hipX, hipY, -2.5 * (endY - hipY), 2.5 * (endX - hipX));
    return Float32Array.from(smooth, (value, i) => value / (i % 2 ? height : width));
  }

  /** Find a hand's landmarks in this frame, from the body's points of it. */
  private async findHand(frame: Ort.Tensor, hand: Hand, pose: Float32Array, width: number, height: number): Promise<void> {
    const points = Float32Array.from(hand.pose.flatMap((n) => [pose[2 * n], pose[2 * n + 1]]));
    const mean = (axis: number) => (points[axis] + points[2 + axis] + points[4 + axis]) / 3;
    const before = hand.wrist;
    hand.wrist = [mean(0) * width, mean(1) * height];
    const outside = hand.pose.every((_, n) => Math.abs(points[2 * n] - 0.5) > 0.5 || Math.abs(points[2 * n + 1] - 0.5) > 0.5);
    if (this.visibility![hand.pose[0]] <= VISIBLE || outside) return hand.lose();
    let region = hand.region;
    // NaN, where there was no hand, is not near.
    if (!(Math.hypot(hand.wrist[0] - before[0], hand.wrist[1] - before[1]) < MOVED * Math.hypot(region[2], region[3]))) {
      const inputs = { frame, points: this.tensor(points, [1, 3, 2]), landmarks: this.tensor(hand.landmarks, [1, 21, 2]), tracked: this.tensor(region, [1, 4]) };
      [region] = await this.run("recrop", inputs);
    }
    const [landmarks, presence, following] = await this.run("hand", { frame, regions: this.tensor(region, [1, 4]) });
    if (!(presence[0] > PRESENT)) return hand.lose();
    hand.landmarks = landmarks.slice();
    hand.region = following.slice();
  }

  /** Replay the stored answers of each graph; return each graph's largest difference, relative to values above 1. */
  async verify(): Promise<{ passed: boolean; differences: Record<string, number> }> {
    const stored = await this.readGoldens();
    const differences: Record<string, number> = {};
    for (const graph of GRAPHS) {
      const inputs: Record<string, Ort.Tensor> = {};
      for (const [name, value] of stored) if (name.startsWith(`${graph}:`)) inputs[name.slice(graph.length + 1)] = value;
      const answers = await this.run(graph, inputs);
      differences[graph] = Math.max(...answers.map((answer, n) => largest(answer, stored.get(`${graph}/${n}`)!.data as Float32Array)));
    }
    return { passed: Object.values(differences).every((one) => one <= TOLERANCE), differences };
  }

  private tensor(data: Float32Array, shape: number[]): Ort.Tensor {
    return new this.ort.Tensor("float32", data, shape);
  }

  private pixelsOf(picture: Picture): { width: number; height: number; rgb: Uint8Array } {
    const image = picture instanceof ImageData ? picture : this.drawn(picture);
    const { width, height, data } = image;
    const rgb = new Uint8Array(width * height * 3);
    for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
      rgb[to] = data[from];
      rgb[to + 1] = data[from + 1];
      rgb[to + 2] = data[from + 2];
    }
    return { width, height, rgb };
  }

  private drawn(picture: ImageBitmap | VideoFrame): ImageData {
    const width = "displayWidth" in picture ? picture.displayWidth : picture.width;
    const height = "displayHeight" in picture ? picture.displayHeight : picture.height;
    if (!width || !height) throw new InputError(`a frame is a picture, got ${width} × ${height} pixels`);
    if (this.canvas?.width !== width || this.canvas.height !== height) this.canvas = new OffscreenCanvas(width, height);
    const pen = this.canvas.getContext("2d", { willReadFrequently: true, alpha: false })!;
    pen.drawImage(picture, 0, 0, width, height);
    return pen.getImageData(0, 0, width, height);
  }
}

function largest(found: Float32Array, expected: Float32Array): number {
  return expected.reduce((most, value, i) => {
    const difference = Math.abs(found[i] - value) / Math.max(1, Math.abs(value));
    return Number.isNaN(value) && Number.isNaN(found[i]) ? most : difference <= most ? most : Number.isNaN(difference) ? Infinity : difference;
  }, 0);
}

async function readManifest(base: string): Promise<{ sha256: string; hashes: Record<string, string> }> {
  const content = await fetched(base + MANIFEST, { mostBytes: 2 ** 20 });
  if (!content) throw new BundleError(`${base}: no landmarker there`, "spoter-kit landmarker fetch, then spoter-kit export --web");
  try {
    const value = JSON.parse(new TextDecoder().decode(content));
    if (value.schema_version !== 1) throw new BundleError(`${base}${MANIFEST}: schema ${value.schema_version}, this version reads 1`, FETCH);
    const hashes: Record<string, string> = value.files;
    const missing = GRAPHS.map((name) => `${name}.onnx`).filter((name) => typeof hashes[name] !== "string");
    if (missing.length) throw new BundleError(`${base}${MANIFEST}: does not list ${missing.join(", ")}`);
    return { sha256: String(value.sha256), hashes };
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${base}${MANIFEST}: is damaged: ${(error as Error).message}`, FETCH);
  }
}

/** The site's goldens hold the inputs too (`GRAPH:INPUT`): Python makes them with a generator of NumPy's. */
async function goldensFrom(ort: typeof Ort, base: string): Promise<Map<string, Ort.Tensor>> {
  const content = await fetched(`${base}web-goldens.npz`, { mostBytes: 2 ** 24 });
  if (!content) throw new BundleError(`${base}web-goldens.npz: is missing`, "spoter-kit export --web");
  try {
    const names = namesOf(content);
    const arrays = await readArrays(content, names, 2 ** 24);
    return new Map(arrays.map((array, n) => [names[n], new ort.Tensor(array.dtype as "float32", array.data as Float32Array, array.shape)]));
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${base}web-goldens.npz: cannot be read: ${error.message}`);
    throw error;
  }
}
