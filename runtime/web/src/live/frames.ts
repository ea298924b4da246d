/** The frames of the last seconds, what each shows, and segments of them at the model's frame rate. */

import { LEFT_HAND, LEFT_SHOULDER, NUM_FEATURES, NUM_LANDMARKS, RIGHT_HAND, RIGHT_SHOULDER, isDetected } from "../landmarks.ts";

export const MOST_FPS = 125;
const SPEED_MS = 80;
const NEAR = 1e-3;
const BRIDGED_MS = 250;
const WRISTS = [[10, RIGHT_HAND], [11, LEFT_HAND]] as const;
const f32 = Math.fround;

/** What one frame shows, in shoulder widths; NaN: unknown. */
export interface Seen {
  t_ms: number;
  height: number;
  speed: number;
  body: boolean;
  left_hand: boolean;
  right_hand: boolean;
}

type Wrists = readonly (readonly [number, number])[];

/** Keeps the landmarks of the last `keepMs`. */
export class Frames {
  private readonly times: number[] = [];
  private readonly poses: Float32Array[] = [];
  private readonly wrists: { t_ms: number; at: Wrists }[] = [];

  constructor(private readonly keepMs: number) {}

  /** Keep a frame, forget those that are too old, and return what it shows. */
  add(t_ms: number, pose: Float32Array): Seen {
    this.times.push(t_ms);
    this.poses.push(pose);
    while (this.times[0] < t_ms - this.keepMs) {
      this.times.shift();
      this.poses.shift();
    }
    const at = wristsOf(pose);
    const heights = at.map(([, y]) => y).filter((y) => y === y);
    const found = (n: number) => Number.isFinite(pose[2 * n]) && Number.isFinite(pose[2 * n + 1]);
    const any = (first: number) => Array.from({ length: 21 }, (_, n) => first + n).some(found);
    return {
      t_ms,
      height: heights.length ? Math.min(...heights) : NaN,
      speed: this.speed(t_ms, at),
      body: found(LEFT_SHOULDER) && found(RIGHT_SHOULDER),
      left_hand: any(LEFT_HAND),
      right_hand: any(RIGHT_HAND),
    };
  }

  private speed(t_ms: number, at: Wrists): number {
    this.wrists.push({ t_ms, at });
    while (this.wrists.length > 2 && this.wrists[1].t_ms <= t_ms - SPEED_MS) this.wrists.shift();
    const before = this.wrists[0];
    const elapsed = (t_ms - before.t_ms) / 1000;
    const moved = at.map(([x, y], n) => f32(Math.hypot(f32(x - before.at[n][0]), f32(y - before.at[n][1])))).filter((d) => d === d);
    return elapsed && moved.length ? Math.max(...moved) / elapsed : NaN;
  }

  /** Return the segment at `fps`, both ends included: (frames, 54, 2) in a row. */
  cut(startMs: number, endMs: number, fps: number): Float32Array {
    return resampleSegment(this.times, this.poses, startMs, endMs, fps);
  }
}

/** Return a float32 copy with NaN for each point that was not detected. */
export function withNan(pose: ArrayLike<number>): Float32Array {
  const made = Float32Array.from(pose);
  for (let n = 0; n < NUM_LANDMARKS; n++) if (!isDetected(made, n)) made[2 * n] = made[2 * n + 1] = NaN;
  return made;
}

/** A frame whose time fits is taken as it is; a point that both frames around a time have is interpolated. */
export function resampleSegment(times: readonly number[], poses: readonly Float32Array[], startMs: number, endMs: number, fps: number): Float32Array {
  const step = 1000 / fps;
  const count = Math.floor((endMs - startMs) / step + NEAR) + 1;
  const clip = new Float32Array(Math.max(count, 0) * NUM_FEATURES);
  for (let n = 0; n < count; n++) {
    const t = startMs + step * n;
    let right = times.findIndex((time) => time >= t - NEAR * step);
    if (right < 0) right = times.length - 1;
    const left = Math.max(right - 1, 0);
    const gap = times[right] - times[left];
    const share = gap ? Math.min(Math.max((t - times[left]) / gap, 0), 1) : 1;
    const [a, b] = [poses[left], poses[right]];
    const nearer = share >= 0.5 ? b : a;
    const as_is = Math.min(share, 1 - share) * gap <= NEAR * step || gap > BRIDGED_MS;
    const part = f32(share);
    for (let i = 0; i < NUM_FEATURES; i++) {
      const between = f32(a[i] + f32(part * f32(b[i] - a[i])));
      clip[n * NUM_FEATURES + i] = as_is || !Number.isFinite(between) ? nearer[i] : between;
    }
  }
  return clip;
}

/** Return both wrists relative to the middle of the shoulders, in shoulder widths. */
function wristsOf(pose: Float32Array): Wrists {
  const at = (n: number) => [pose[2 * n], pose[2 * n + 1]] as const;
  const [right, left] = [at(RIGHT_SHOULDER), at(LEFT_SHOULDER)];
  const width = f32(Math.hypot(f32(left[0] - right[0]), f32(left[1] - right[1])));
  if (!(width > 0)) return [[NaN, NaN], [NaN, NaN]];
  const middle = [0, 1].map((axis) => f32(f32(left[axis] + right[axis]) / 2));
  return WRISTS.map(([body, hand]) => {
    const wrist = at(Number.isNaN(pose[2 * hand]) ? body : hand);
    return [f32(f32(wrist[0] - middle[0]) / width), f32(f32(wrist[1] - middle[1]) / width)] as const;
  });
}
