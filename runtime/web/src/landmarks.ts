/** The 54 landmarks: where body and hands are, how they are drawn, and the checks on one clip. */

import { InputError } from "./errors.ts";
import { floatText, tupleText } from "./python.ts";

export const NUM_LANDMARKS = 54;
export const NUM_FEATURES = 108;
export const RIGHT_SHOULDER = 6;
export const LEFT_SHOULDER = 7;
export const LEFT_HAND = 12; // its first landmark; the right hand's follow
export const RIGHT_HAND = 33;
export const COORDINATE_LIMIT = 1e4;

/** MediaPipe Pose indices whose mean is each body point. */
export const MEDIAPIPE_POSE: readonly (readonly number[])[] = [[0], [11, 12], [5], [2], [8], [7], [12], [11], [14], [13], [16], [15]];

const handBones = (first: number): [number, number][] =>
  [0, 1, 2, 3, 4].flatMap((f) => [0, 1, 2, 3].map((j): [number, number] => [first + (j ? 4 * f + j : 0), first + 4 * f + j + 1]));

/** Pairs of landmarks to draw. */
export const BONES: readonly (readonly [number, number])[] = [
  [0, 1], [0, 2], [0, 3], [2, 4], [3, 5], [6, 7], [6, 8], [8, 10], [7, 9], [9, 11],
  ...handBones(LEFT_HAND),
  ...handBones(RIGHT_HAND),
];

type Numbers = ArrayLike<number | null>;

/** A clip: numbers in a row (frames × 108), or nested by frame, or by frame and landmark; null and NaN: not detected. */
export type ClipLike = Float32Array | Float64Array | readonly (Numbers | readonly (Numbers | null)[])[];

/** Whether a landmark was detected: neither NaN in x or y, nor exactly (0, 0). */
export const isDetected = (points: Float32Array, landmark: number) => {
  const x = points[2 * landmark], y = points[2 * landmark + 1];
  return x === x && y === y && (x !== 0 || y !== 0);
};

/** Return a clip as float32, (frames, 54, 2) in a row, or raise an InputError that says what is wrong. */
export function checkClip(clip: unknown, maxFrames: number, where = "clip", longAllowed = false): Float32Array {
  const flat = flattened(clip, where);
  const frames = flat.length / NUM_FEATURES;
  if (frames === 0) throw new InputError(`${where}: 0 frames, the model takes 1..${maxFrames}`);
  if (frames > maxFrames && !longAllowed)
    throw new InputError(`${where}: ${frames} frames, the model takes 1..${maxFrames}`, "cut the clip, or resample it: Recognizer.load(url, { long: 'resample' })");
  checkCoordinates(flat, [frames, NUM_LANDMARKS, 2], where);
  const clip32 = Float32Array.from(flat);
  for (let i = 0; i < clip32.length / 2; i++) if (isDetected(clip32, i)) return clip32;
  throw new InputError(`${where}: no landmark is detected in any of its ${frames} frames, so there is nothing to recognise`);
}

function flattened(clip: unknown, where: string): Float64Array | Float32Array {
  const expected = `expected (frames, ${NUM_LANDMARKS}, 2) or (frames, ${NUM_FEATURES})`;
  if (clip instanceof Float32Array || clip instanceof Float64Array) {
    if (clip.length % NUM_FEATURES) throw new InputError(`${where}: ${expected}, got ${tupleText([clip.length])}`, "one array of frames × 108 numbers, or an array a frame");
    return clip;
  }
  if (ArrayBuffer.isView(clip)) throw new InputError(`${where}: expected floating-point landmarks, got ${clip.constructor.name}`, "Float32Array.from(clip)");
  if (!Array.isArray(clip)) throw new InputError(`${where}: ${expected}, got ${clip === null ? "null" : typeof clip}`);
  const made = new Float64Array(clip.length * NUM_FEATURES);
  clip.forEach((frame, t) => made.set(frameOf(frame, `${where}: frame ${t}`), t * NUM_FEATURES));
  return made;
}

/** Return one frame: 108 numbers, or 54 points of which some may be null. */
export function frameOf(frame: unknown, where: string): Float64Array {
  const rows = ArrayBuffer.isView(frame) || Array.isArray(frame) ? Array.from(frame as ArrayLike<unknown>) : null;
  if (rows && rows.length === NUM_FEATURES && rows.every(isNumber)) return Float64Array.from(rows, (x) => (x === null ? NaN : (x as number)));
  if (rows && rows.length === NUM_LANDMARKS) {
    const made = new Float64Array(NUM_FEATURES).fill(NaN);
    rows.forEach((row, n) => {
      if (row === null) return;
      const point = Array.from(row as ArrayLike<unknown>);
      if (point.length !== 2 || !point.every(isNumber))
        throw new InputError(`${where}: expected ${NUM_LANDMARKS}×2 values a frame, got a point of ${point.length}`, "keep x and y only");
      made.set(point.map((x) => (x === null ? NaN : (x as number))), 2 * n);
    });
    return made;
  }
  throw new InputError(`${where}: expected ${NUM_LANDMARKS} points or ${NUM_FEATURES} numbers, got ${rows ? `${rows.length} values` : typeof frame}`);
}

const isNumber = (value: unknown) => typeof value === "number" || value === null;

/** Raise for an infinity or a coordinate beyond the limit; NaN passes (not detected). */
export function checkCoordinates(points: ArrayLike<number>, shape: readonly number[], where: string): void {
  const last = shape.slice(1);
  for (let i = 0; i < points.length; i++) {
    if (Math.abs(points[i]) <= COORDINATE_LIMIT || points[i] !== points[i]) continue;
    const index = shape.map((size, axis) => Math.floor(i / last.slice(axis).reduce((a, b) => a * b, 1)) % size);
    throw new InputError(`${where}: value ${floatText(Math.fround(points[i]))} at index ${tupleText(index)}; coordinates are finite and at most 10000`, "use NaN where a landmark was not detected");
  }
}

/** Return the clip with `frames` frames, each a copy of the nearest original one. */
export function resampleClip(clip: Float32Array, frames: number): Float32Array {
  const count = clip.length / NUM_FEATURES;
  const made = new Float32Array(frames * NUM_FEATURES);
  for (let t = 0; t < frames; t++) {
    const from = Math.min(Math.trunc(((t + 0.5) * count) / frames), count - 1);
    made.set(clip.subarray(from * NUM_FEATURES, (from + 1) * NUM_FEATURES), t * NUM_FEATURES);
  }
  return made;
}
