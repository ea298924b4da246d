/** Settings of a stream: times in milliseconds, lengths in shoulder widths, never frames or pixels. */

import { ConfigError } from "../errors.ts";
import { floatText } from "../python.ts";

export type Gate = "rest" | "window" | "push";
export const GATES: readonly Gate[] = ["rest", "window", "push"];

/** Python's defaults; docs/how-to/live.md says what each means. */
export const DEFAULTS = {
  fps: 30,
  rest_by: "height" as "height" | "motion",
  rise: 0.7,
  fall: 0.5,
  moving: 0.8,
  still: 0.4,
  shortest_ms: 200,
  rest_ms: 100,
  longest_ms: 5000,
  pad_start_ms: -100,
  pad_end_ms: -100,
  window_ms: 267,
  hop_ms: 33,
  smooth_ms: 133,
  hold_ms: 33,
  valley: 0.2,
  partial_ms: 200,
  tracking_ms: 1000,
  gap_ms: 700,
  least_hands: 0.05,
  least_probability: 0,
};

export type StreamSettings = typeof DEFAULTS;

/** The least and the most of each number, as in Python. */
const RANGES: Record<Exclude<keyof StreamSettings, "rest_by">, readonly [number, number]> = {
  fps: [0.1, 1000],
  rise: [0, 1000],
  fall: [0, 1000],
  moving: [0, 1000],
  still: [0, 1000],
  shortest_ms: [0, 3_600_000],
  rest_ms: [0, 60_000],
  longest_ms: [1, 3_600_000],
  pad_start_ms: [-60_000, 60_000],
  pad_end_ms: [-60_000, 60_000],
  window_ms: [1, 60_000],
  hop_ms: [1, 60_000],
  smooth_ms: [0, 60_000],
  hold_ms: [0, 60_000],
  valley: [0, 1],
  partial_ms: [0, 3_600_000],
  tracking_ms: [0, 3_600_000],
  gap_ms: [1, 60_000],
  least_hands: [0, 1],
  least_probability: [0, 1],
};

/** Return all settings, with a longest sign that the model takes. */
export function fittedSettings(given: Record<string, unknown>, maxFrames: number): StreamSettings {
  const names = Object.keys(DEFAULTS) as (keyof StreamSettings)[];
  for (const [name, value] of Object.entries(given)) {
    if (!(name in DEFAULTS)) throw new ConfigError(`no setting '${name}'; there are ${names.join(", ")}`);
    if (name !== "rest_by" && typeof value !== "number") throw new ConfigError(`${name}: expected a number, got ${JSON.stringify(value)}`);
  }
  const made = { ...DEFAULTS, ...given } as StreamSettings;
  check(made);
  const padding = Math.max(made.pad_start_ms, 0) + Math.max(made.pad_end_ms, 0);
  made.longest_ms = Math.min(made.longest_ms, (1000 * (maxFrames - 1)) / made.fps - padding);
  check(made);
  return made;
}

function check(s: StreamSettings): void {
  if (s.rest_by !== "height" && s.rest_by !== "motion") throw new ConfigError(`rest_by='${s.rest_by as string}': expected height or motion`);
  for (const [name, [least, most]] of Object.entries(RANGES)) {
    const value = s[name as keyof typeof RANGES];
    if (!(least <= value && value <= most)) throw new ConfigError(`${name}=${floatText(value)}: expected ${least}..${most}`);
  }
  for (const [low, high] of [["fall", "rise"], ["still", "moving"], ["shortest_ms", "longest_ms"]] as const)
    if (!(s[low] > 0 && s[low] < s[high])) throw new ConfigError(`${low}=${floatText(s[low])}, ${high}=${floatText(s[high])}: expected 0 < ${low} < ${high}`);
}
