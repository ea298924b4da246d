/** One hand of the signer, in a worker of its own: both hands are followed while the next frame's body is found. */

import { startEngine, type EngineFiles } from "../engine.ts";
import { Graphs, HAND_GRAPHS, PRESENT, type Contents, type Frame, type Stored } from "./graphs.ts";

const MOVED = 0.15;
const nothing = (values: number): Float32Array => new Float32Array(values).fill(NaN);

export class CoreHand {
  // Of the last frame; NaN where the hand was not found.
  private landmarks = nothing(42);
  private region = nothing(4);
  private wrist = [NaN, NaN];

  private constructor(private readonly graphs: Graphs) {}

  static async load(engine: EngineFiles, base: string, contents: Contents): Promise<CoreHand> {
    return new CoreHand(await Graphs.open(await startEngine(engine), base, contents, HAND_GRAPHS));
  }

  /**
   * Return the hand's landmarks (21, 2) in a frame.
   *
   * @param points of the body: wrist, little and index finger; null: this hand is out of sight.
   */
  async find(frame: Frame | null, points: Float32Array | null): Promise<Float32Array> {
    if (!frame || !points) return this.lose();
    const picture = this.graphs.pixels(frame);
    const mean = (axis: number) => (points[axis] + points[2 + axis] + points[4 + axis]) / 3;
    const before = this.wrist;
    this.wrist = [mean(0) * frame.width, mean(1) * frame.height];
    let region = this.region;
    // NaN, where there was no hand, is not near.
    if (!(Math.hypot(this.wrist[0] - before[0], this.wrist[1] - before[1]) < MOVED * Math.hypot(region[2], region[3]))) {
      const inputs = { frame: picture, points: this.graphs.floats(points, 1, 3, 2), landmarks: this.graphs.floats(this.landmarks, 1, 21, 2), tracked: this.graphs.floats(region, 1, 4) };
      [region] = await this.graphs.run("recrop", inputs);
    }
    const [landmarks, presence, following] = await this.graphs.run("hand", { frame: picture, regions: this.graphs.floats(region, 1, 4) });
    if (!(presence[0] > PRESENT)) return this.lose();
    this.region = following.slice();
    return (this.landmarks = landmarks.slice());
  }

  private lose(): Float32Array {
    this.region = nothing(4);
    return (this.landmarks = nothing(42));
  }

  verify(stored: Stored): Promise<Record<string, number>> {
    return this.graphs.verify(stored);
  }
}
