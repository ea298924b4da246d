/** The stream inside the worker: frames with their times go in, events come out. */

import type { CoreLandmarker, Picture } from "../camera/landmarker.ts";
import { handShare, softmax } from "../decision.ts";
import { ConfigError, InputError, SpoterError } from "../errors.ts";
import { NUM_LANDMARKS, checkCoordinates, frameOf } from "../landmarks.ts";
import { fixed, general, round } from "../python.ts";
import type { CoreRecognizer, Prediction } from "../recognizer.ts";
import type { AbstainCode, FaultCode, StreamEvent } from "./events.ts";
import { Frames, MOST_FPS, withNan, type Seen } from "./frames.ts";
import { PushGate, RestGate, WindowGate, type FindsSegments, type Mark } from "./gates.ts";
import { GATES, fittedSettings, type Gate, type StreamSettings } from "./settings.ts";

const UNCALIBRATED = "the bundle has no calibration: every segment is answered with a sign, also one that is none";
const MOST_EVENTS = 4096;
/** Frames in a row that come too soon, or too late: no camera does. */
const MANY = 10;

/** Recognise signs in a stream of frames, one after the other. It has no clock: the same frames with the same times give the same events. */
export class CoreStream {
  readonly settings: StreamSettings;
  /** Landmarks of the last frame; null where it was left out. */
  landmarks: Float32Array | null = null;
  /** Persons in the last frame; null: not known. */
  persons: number | null = null;
  private pending: StreamEvent[] = [];
  private lastMs: number | null = null;
  private warned = false;
  private isFirst = true;
  private frames!: Frames;
  private gate!: FindsSegments;
  private nextPartialMs = Infinity;
  /** Frames since the last one that was taken: dropped, or left out. */
  private missed = 0;
  private tooSoon = 0;
  private tooLate = 0;
  /** The fault of the frames in a row that are left out. */
  private isSaid: FaultCode | null = null;
  private modelFails = false;
  private tracked: Seen[] = [];
  /** From frame to frame since the last report. */
  private steps = 0;
  private trackedFrom: number | null = null;
  private mostPersons: number | null = null;

  constructor(
    private readonly recognizer: CoreRecognizer,
    private readonly gateName: Gate,
    private readonly landmarker: CoreLandmarker | null,
    settings: Record<string, unknown>,
  ) {
    if (!GATES.includes(gateName)) throw new ConfigError(`gate '${gateName}': expected ${GATES.join(", ")}`);
    this.settings = fittedSettings(settings, recognizer.contract.max_frames);
    this.reset();
  }

  /** Forget everything: another video begins. */
  reset(): void {
    this.pending = [];
    this.lastMs = null;
    this.warned = false;
    this.isFirst = true;
    this.landmarks = null;
    this.persons = null;
    this.missed = 0;
    this.begin();
  }

  /** Forget the frames, but not the events. */
  private begin(): void {
    const s = this.settings;
    this.frames = new Frames(s.longest_ms + s.gap_ms + s.rest_ms + s.window_ms + Math.max(s.pad_start_ms, 0) + 1000);
    const gates = { rest: () => new RestGate(s), window: () => new WindowGate(s, (start, end) => this.shares(start, end)), push: () => new PushGate(s) };
    this.gate = gates[this.gateName]();
    this.nextPartialMs = Infinity;
    this.tooSoon = this.tooLate = 0;
    this.isSaid = null;
    this.modelFails = false;
    this.tracked = [];
    this.steps = 0;
    this.mostPersons = null;
    this.trackedFrom = null;
    this.landmarker?.reset();
  }

  /** Say that a sign begins or ends with the next frame; for the gate "push". */
  push(signing: boolean): void {
    if (!(this.gate instanceof PushGate)) throw new ConfigError(`push with the gate '${this.gateName}'`, "new SignStream(recognizer, 'push')");
    this.gate.pushed = signing;
  }

  /** Return the events since the last call, in their order. */
  events(): StreamEvent[] {
    const found = this.pending;
    this.pending = [];
    return found;
  }

  /** Take the next frame: landmarks, or a picture. */
  async accept(frame: unknown, t_ms: number, dropped = 0, persons: number | null = null): Promise<void> {
    this.landmarks = null;
    this.missed += Math.max(dropped, 0);
    if (!(await this.isLater(t_ms))) return;
    if (this.isFirst) {
      this.isFirst = false;
      this.say({ type: "ready", t_ms, gate: this.gateName, backend: this.recognizer.backend, labels: this.recognizer.labels.length, fps: this.settings.fps });
    }
    const { gap_ms } = this.settings;
    if (this.lastMs !== null && t_ms - this.lastMs < 1000 / MOST_FPS) {
      this.tooSoon = this.count(this.tooSoon, t_ms, `less than ${1000 / MOST_FPS} ms after the last one and are left out`);
      this.missed++;
      return;
    }
    this.sayDropped(t_ms);
    if (this.lastMs !== null && t_ms - this.lastMs > gap_ms) {
      await this.mark(await this.gate.end(this.lastMs, "gap"), t_ms);
      this.tooLate = this.count(this.tooLate, t_ms, `more than ${general(gap_ms)} ms after the one before`);
    } else this.tooLate = 0;
    this.lastMs = t_ms;
    this.tooSoon = 0;
    this.persons = persons;
    this.landmarks = await this.landmarksOf(frame, t_ms);
    if (this.persons !== null) this.mostPersons = Math.max(this.mostPersons ?? 0, this.persons);
    if (this.landmarks) await this.take(t_ms, this.landmarks);
  }

  /** End what goes on: no frame will come any more. */
  async flush(): Promise<void> {
    if (this.lastMs === null) return;
    this.sayDropped(this.lastMs);
    await this.mark(await this.gate.end(this.lastMs), this.lastMs);
    this.track(this.lastMs);
  }

  /** Count a frame that comes too soon or too late; many in a row have times in another unit. */
  private count(before: number, t_ms: number, how: string): number {
    if (before + 1 === MANY) this.fault(t_ms, "time", `${MANY} frames in a row came ${how}; t_ms is milliseconds`);
    return before + 1;
  }

  /** Count a frame that cannot be used, and say why: once for many in a row. */
  private leaveOut(t_ms: number, code: FaultCode, reason: string): void {
    this.missed++;
    if (code !== this.isSaid) this.fault(t_ms, code, `${reason}; the frame is left out, and those like it behind it`);
    this.isSaid = code;
  }

  private sayDropped(t_ms: number): void {
    const frames = this.missed;
    this.missed = 0;
    if (frames > 0) this.say({ type: "dropped", t_ms, frames });
  }

  private async isLater(t_ms: number): Promise<boolean> {
    if (typeof t_ms !== "number" || !Number.isFinite(t_ms)) {
      this.leaveOut(this.lastMs ?? 0, "time", `a frame has no time: ${String(t_ms)}`);
      return false;
    }
    if (this.lastMs === null || t_ms > this.lastMs) return true;
    const wentBack = `a frame of ${general(t_ms, 15)} ms after one of ${general(this.lastMs, 15)} ms`;
    if (this.lastMs - t_ms > this.settings.gap_ms) {
      // Another clock, or a file from its beginning.
      await this.mark(await this.gate.end(this.lastMs, "gap"), this.lastMs);
      this.fault(t_ms, "time", `${wentBack}: the stream begins anew`);
      this.begin();
      this.lastMs = null;
      return true;
    }
    this.leaveOut(this.lastMs, "time", `${wentBack}: t_ms grows from frame to frame`);
    return false;
  }

  /** Return the landmarks of a frame; null, and a fault, where they cannot be used. */
  private async landmarksOf(frame: unknown, t_ms: number): Promise<Float32Array | null> {
    if (isPicture(frame)) {
      if (!this.landmarker) throw new InputError("frame: a picture needs a landmarker", "new SignStream(recognizer, 'rest', { landmarker })");
      try {
        const { persons, landmarks } = await this.landmarker.find(frame);
        this.persons = persons;
        return await landmarks;
      } catch (error) {
        if (!(error instanceof SpoterError) || error instanceof InputError) throw error;
        this.leaveOut(t_ms, "landmarker", error.message);
        return null;
      }
    }
    const points = frameOf(frame, "frame");
    try {
      checkCoordinates(points, [NUM_LANDMARKS, 2], "frame");
    } catch (error) {
      this.leaveOut(t_ms, "landmarks", (error as SpoterError).reason);
      return null;
    }
    return withNan(points);
  }

  private async take(t_ms: number, pose: Float32Array): Promise<void> {
    this.isSaid = null;
    const seen = this.frames.add(t_ms, pose);
    if (this.settings.tracking_ms) {
      this.tracked.push(seen);
      if (this.trackedFrom === null) this.trackedFrom = t_ms;
      else this.steps++;
      if (t_ms - this.trackedFrom >= this.settings.tracking_ms) this.track(t_ms);
    }
    await this.mark(await this.gate.accept(seen), t_ms);
    const since = this.gate.openSince;
    if (since !== null && t_ms >= this.nextPartialMs) await this.partial(since, t_ms);
  }

  /** Report on the tracking since the last report. */
  private track(t_ms: number): void {
    const { tracked: seen, trackedFrom: begin, mostPersons: persons, steps } = this;
    this.tracked = [];
    this.steps = 0;
    this.trackedFrom = t_ms;
    this.mostPersons = null;
    if (!seen.length || begin === null || t_ms <= begin) return;
    const share = (name: "body" | "left_hand" | "right_hand") => round(seen.filter((one) => one[name]).length / seen.length, 3);
    this.say({
      type: "tracking",
      t_ms,
      frames_per_s: round((1000 * steps) / (t_ms - begin), 2),
      body: share("body"),
      left_hand: share("left_hand"),
      right_hand: share("right_hand"),
      persons,
    });
  }

  private async mark(marks: Mark[], t_ms: number): Promise<void> {
    for (const { kind, start_ms, end_ms, code } of marks) {
      if (kind === "start") {
        this.say({ type: "sign_start", t_ms, start_ms });
        this.nextPartialMs = t_ms + (this.settings.partial_ms || Infinity);
      } else if (kind === "end") await this.answer(start_ms, Math.min(end_ms, t_ms), t_ms);
      else this.abstain(start_ms, end_ms, t_ms, code || "gap", this.refusal(code));
    }
  }

  private refusal(code: Mark["code"]): string {
    if (code !== "long") return `no frame showed the wrists for more than ${general(this.settings.gap_ms)} ms`;
    const hint = this.gateName === "rest" ? "; signs without rests need the gate window" : "";
    return `it lasts longer than ${general(this.settings.longest_ms)} ms${hint}`;
  }

  /**
   * Return the softmax of a window; all equal where nothing was found or the model failed.
   * A label that means "no sign" has 0: part of a sign often looks like none, and would cut it.
   */
  private async shares(startMs: number, endMs: number): Promise<number[]> {
    const { labels, background } = this.recognizer;
    const prediction = await this.predict(this.frames.cut(startMs, endMs, this.settings.fps), endMs);
    if (!prediction) return Array<number>(labels.length).fill(1 / labels.length);
    return softmax(prediction.logits).map((share, place) => (background.includes(labels[place].name) ? 0 : share));
  }

  private async predict(clip: Float32Array, t_ms: number): Promise<Prediction | null> {
    if (clip.every(Number.isNaN)) return null;
    try {
      const prediction = await this.recognizer.predict(clip, `the segment that ends at ${general(t_ms, 15)} ms`);
      this.modelFails = false;
      return prediction;
    } catch (error) {
      if (!(error instanceof SpoterError)) throw error;
      if (!this.modelFails) this.fault(t_ms, "model", error.message);
      this.modelFails = true;
      return null;
    }
  }

  private async partial(startMs: number, t_ms: number): Promise<void> {
    this.nextPartialMs = t_ms + this.settings.partial_ms;
    const begin = Math.max(startMs, t_ms - this.settings.longest_ms);
    const prediction = await this.predict(this.frames.cut(begin, t_ms, this.settings.fps), t_ms);
    if (!prediction) return;
    const { best } = prediction;
    this.say({ type: "partial", t_ms, start_ms: startMs, label: best[0].label, score: best[0].score, best });
  }

  /** Recognise a segment, and say a sign or why not. */
  private async answer(start_ms: number, end_ms: number, t_ms: number): Promise<void> {
    const clip = this.frames.cut(start_ms, end_ms, this.settings.fps);
    const hands = handShare(clip), least = this.settings.least_hands;
    if (hands < least) {
      this.abstain(start_ms, end_ms, t_ms, "tracking", `a hand was found in ${fixed(100 * hands, 0)}% of the frames, less than ${fixed(100 * least, 0)}%`);
      return;
    }
    const prediction = await this.predict(clip, t_ms);
    if (!prediction) return this.abstain(start_ms, end_ms, t_ms, "tracking", "the model gave no answer");
    if (prediction.is_sign === null && !this.warned) {
      this.warned = true;
      this.fault(t_ms, "uncalibrated", UNCALIBRATED);
    }
    const sure = prediction.probability ?? prediction.score, leastSure = this.settings.least_probability;
    if (prediction.is_sign === false) return this.abstain(start_ms, end_ms, t_ms, "not_a_sign", prediction.reason, prediction);
    if (sure < leastSure) return this.abstain(start_ms, end_ms, t_ms, "unsure", `${fixed(sure, 2)} is less than ${general(leastSure)}`, prediction);
    const { label, score, probability, best } = prediction;
    this.say({ type: "sign", t_ms, start_ms, end_ms, label, score, probability, margin: best[0].score - (best[1]?.score ?? 0), best, latency_ms: t_ms - end_ms });
  }

  private abstain(start_ms: number, end_ms: number, t_ms: number, code: AbstainCode, reason: string, prediction: Prediction | null = null): void {
    const { label = null, score = null, probability = null } = prediction ?? {};
    this.say({ type: "abstain", t_ms, start_ms, end_ms, code, reason, label, score, probability });
  }

  private fault(t_ms: number, code: FaultCode, reason: string): void {
    this.say({ type: "fault", t_ms, code, reason });
  }

  private say(event: StreamEvent): void {
    this.pending.push(event);
    if (this.pending.length > MOST_EVENTS) this.pending.splice(this.pending[0].type === "ready" ? 1 : 0, 1);
  }
}

function isPicture(frame: unknown): frame is Picture {
  return typeof frame === "object" && frame !== null && "width" in frame && "height" in frame;
}
