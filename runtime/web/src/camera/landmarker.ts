/** The landmarker inside the worker: one frame after the other to the 54 landmarks. The picture's part is in the graphs. */

import type { BackendName, Engine, EngineFiles, Engines } from "../engine.ts";
import { InputError } from "../errors.ts";
import type { OnProgress } from "../files.ts";
import { checkAsked, proven, type Asked, type Chosen } from "../gpu.ts";
import { LEFT_HAND, MEDIAPIPE_POSE, NUM_FEATURES, RIGHT_HAND } from "../landmarks.ts";
import { Remote } from "../remote.ts";
import { BODY_GRAPHS, Graphs, HAND_GRAPHS, PRESENT, readGraphs, readStored, type Contents, type Frame, type Stored } from "./graphs.ts";
import { OneEuroFilter } from "./smoothing.ts";

/** A picture: RGBA pixels, or something that can be drawn. */
export type Picture = ImageData | ImageBitmap | VideoFrame;

const TOLERANCE = 5e-3; // as in Python: of the goldens, relative to values above 1
const ANOTHER = 0.15; // as in Python
const VISIBLE = 0.1;
const VISIBILITY_WEIGHT = 0.1;
const ELAPSED_S = 1 / 30; // MediaPipe's Python takes it for every video, and models are trained on what it gave

/** A hand of the signer: it is found in a worker of its own, in the order of the frames. */
class Hand {
  private readonly remote = new Remote(new URL(import.meta.url), "spoter hand");
  private readonly handle = this.remote.number();

  /** @param pose MediaPipe Pose indices of wrist, little and index finger. */
  constructor(readonly first: number, readonly pose: readonly number[]) {}

  load(engine: EngineFiles, base: string, { recrop, hand }: Contents): Promise<void> {
    return this.remote.ask("hand.load", this.handle, [engine, base, { recrop, hand }]);
  }

  find(frame: Frame | null, points: Float32Array | null): Promise<Float32Array> {
    return this.remote.ask("hand.find", this.handle, [frame, points]);
  }

  lose(): void {
    this.find(null, null).catch(() => undefined); // closed
  }

  verify(stored: Stored): Promise<Record<string, number>> {
    return this.remote.ask("hand.verify", this.handle, [stored]);
  }

  close(): void {
    this.remote.close();
  }
}

/** Finds the landmarks of one person in the frames of one video, in their order. */
export class CoreLandmarker {
  private persons = 0;
  private readonly body = new OneEuroFilter(0.05, 80);
  private readonly bodyRegion = new OneEuroFilter(0.01, 10);
  private size = "";
  private region: Float32Array | null = null;
  private visibility: Float32Array | null = null;
  private canvas: OffscreenCanvas | null = null;

  private constructor(private readonly base: string, readonly sha256: string, private readonly graphs: Graphs, private readonly hands: readonly Hand[]) {}

  /** Load the graphs from a folder; each is compared with its hash. */
  static async load(url: string, engines: Engines, backend: Asked, packed: readonly string[], onProgress?: OnProgress): Promise<Chosen<CoreLandmarker>> {
    checkAsked(backend);
    const base = url.endsWith("/") ? url : `${url}/`;
    const { sha256, contents } = await readGraphs(base, packed, onProgress);
    const open = async (name: BackendName) => CoreLandmarker.open(base, sha256, await engines.load(name, onProgress), contents);
    return proven(backend, await open("wasm"), engines.name + sha256, () => open("webgpu"));
  }

  private static async open(base: string, sha256: string, engine: Engine, contents: Contents): Promise<CoreLandmarker> {
    const hands = [new Hand(LEFT_HAND, [15, 17, 19]), new Hand(RIGHT_HAND, [16, 18, 20])];
    try {
      const loading = hands.map((hand) => hand.load(engine.files, base, contents));
      const [graphs] = await Promise.all([Graphs.open(engine, base, contents, BODY_GRAPHS), ...loading]);
      return new CoreLandmarker(base, sha256, graphs, hands);
    } catch (error) {
      for (const hand of hands) hand.close();
      throw error;
    }
  }

  /** Forget the frames before: the next one belongs to another video. */
  reset(): void {
    this.size = "";
    this.loseBody();
  }

  /** Free the networks, and end the hands' workers. */
  close(): void {
    this.graphs.close();
    for (const hand of this.hands) hand.close();
  }

  private loseBody(): void {
    this.region = this.visibility = null;
    this.body.reset();
    this.bodyRegion.reset();
    for (const hand of this.hands) hand.lose();
  }

  /**
   * Find the body, and begin with the hands: the next frame may follow while they are looked for.
   *
   * @returns how many persons were seen when the body was last looked for (0, 1, or 2 for more than one); and the
   *   landmarks (54, 2) in 0..1 of the picture, NaN where not detected.
   */
  async find(picture: Picture): Promise<{ persons: number; landmarks: Promise<Float32Array> }> {
    const frame = this.pixelsOf(picture);
    const size = `${frame.width}×${frame.height}`;
    if (this.size !== size) this.loseBody(); // regions are in pixels
    this.size = size;
    const found = new Float32Array(NUM_FEATURES).fill(NaN);
    const pose = await this.findBody(frame).catch((error: unknown) => {
      this.loseBody(); // half of it is of this frame
      throw error;
    });
    if (!pose) {
      this.loseBody();
      return { persons: this.persons, landmarks: Promise.resolve(found) };
    }
    for (const [landmark, sources] of MEDIAPIPE_POSE.entries()) {
      const [a, b] = [sources[0], sources[sources.length - 1]];
      for (const axis of [0, 1]) found[2 * landmark + axis] = Math.fround(pose[2 * a + axis] + pose[2 * b + axis]) / 2;
    }
    const finding = this.hands.map(async (hand) => found.set(await this.findHand(hand, frame, pose), 2 * hand.first));
    const failed = (error: unknown) => {
      this.size = ""; // the next frame begins anew: half of what is known is of this one
      throw error;
    };
    return { persons: this.persons, landmarks: Promise.all(finding).then(() => found, failed) };
  }

  /** Return MediaPipe's 33 points of the body, smoothed over time. */
  private async findBody(picture: Frame): Promise<Float32Array | null> {
    const { width, height } = picture;
    const frame = this.graphs.pixels(picture);
    let region = this.region;
    if (!region) {
      const [found, score, other] = await this.graphs.run("pose_detection", { frame });
      this.persons = score[0] < PRESENT ? 0 : 1 + Number(other[0] >= ANOTHER);
      if (score[0] < PRESENT) return null;
      region = found;
    }
    const [landmarks, ends, visibility, presence] = await this.graphs.run("pose", { frame, region: this.graphs.floats(region, 1, 4) });
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

  private findHand(hand: Hand, frame: Frame, pose: Float32Array): Promise<Float32Array> {
    const points = Float32Array.from(hand.pose.flatMap((n) => [pose[2 * n], pose[2 * n + 1]]));
    const outside = hand.pose.every((_, n) => Math.abs(points[2 * n] - 0.5) > 0.5 || Math.abs(points[2 * n + 1] - 0.5) > 0.5);
    return this.visibility![hand.pose[0]] <= VISIBLE || outside ? hand.find(null, null) : hand.find(frame, points);
  }

  get backend(): BackendName {
    return this.graphs.backend;
  }

  /** Replay the stored answers of each graph in each worker; return each graph's largest difference, relative to values above 1. */
  async verify(): Promise<{ passed: boolean; differences: Record<string, number> }> {
    const stored = await readStored(this.base);
    const ofHands: Stored = new Map([...stored].filter(([name]) => HAND_GRAPHS.some((graph) => name.startsWith(graph))));
    const found = await Promise.all([this.graphs.verify(stored), ...this.hands.map((hand) => hand.verify(ofHands))]);
    const differences: Record<string, number> = {};
    for (const [graph, difference] of found.flatMap(Object.entries<number>)) differences[graph] = Math.max(differences[graph] ?? 0, difference);
    return { passed: Object.values(differences).every((one) => one <= TOLERANCE), differences };
  }

  private pixelsOf(picture: Picture): Frame {
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
