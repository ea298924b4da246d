/** Whether a clip shows a sign: a calibrated probability, and the thresholds of the bundle. */

import type { Label } from "./bundle/contract.ts";
import { fixed } from "./python.ts";
import { LEFT_HAND, NUM_FEATURES, NUM_LANDMARKS, isDetected } from "./landmarks.ts";

export const NO_CALIBRATION = "the bundle holds no calibration";

/** When a model says that a clip shows no sign; `bundle.json` holds it as `abstention`. */
export interface Abstention {
  temperature: number;
  min_probability: number;
  min_margin: number;
  min_hand_share: number;
  min_likeness: number;
  background: string[];
  typical_logits: string[];
}

export interface Decision {
  probability: number | null;
  is_sign: boolean | null;
  reason: string;
}

export function decide(logits: ArrayLike<number>, labels: readonly Label[], clip: Float32Array, rule: Abstention | null): Decision {
  if (!rule) return { probability: null, is_sign: null, reason: NO_CALIBRATION };
  const shares = softmax(logits, rule.temperature);
  const [best, second] = [...[...shares].sort((a, b) => b - a), 0];
  const no = (reason: string): Decision => ({ probability: best, is_sign: false, reason });
  const place = argmax(logits);
  const name = labels[place].name;
  if (rule.background.includes(name)) return no(`${name} stands for no sign`);
  const shown = handShare(clip);
  if (shown < rule.min_hand_share) return no(`no hand in ${Math.floor(100 * (1 - shown) + 1e-9)} % of the frames`);
  if (best < rule.min_probability) return no(`score ${below(best, rule.min_probability)}`);
  if (best - second < rule.min_margin) return no(`margin ${below(best - second, rule.min_margin)}`);
  const alike = rule.typical_logits.length ? likeness(logits, rule.typical_logits[place]) : 1;
  if (alike < rule.min_likeness) return no(`likeness ${below(alike, rule.min_likeness)}`);
  return { probability: best, is_sign: true, reason: "" };
}

/** Return the correlation of logits with typical ones; 1 where either are all equal. */
function likeness(logits: ArrayLike<number>, typical: string): number {
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const around = (values: number[]) => values.map((value) => value - sum(values) / values.length);
  const own = around(Array.from(logits));
  const row = around(typical.split(" ").map(Number));
  const size = Math.sqrt(sum(own.map((a) => a * a)) * sum(row.map((b) => b * b)));
  return size > 0 ? sum(own.map((a, i) => a * row[i])) / size : 1;
}

export function softmax(logits: ArrayLike<number>, temperature = 1): number[] {
  const most = Math.max(...Array.from(logits));
  const powers = Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** Return the share of frames in which a point of a hand was detected. */
export function handShare(clip: Float32Array): number {
  const frames = clip.length / NUM_FEATURES;
  let shown = 0;
  for (let t = 0; t < frames; t++) {
    for (let n = LEFT_HAND; n < NUM_LANDMARKS; n++) {
      if (isDetected(clip, t * NUM_LANDMARKS + n)) {
        shown++;
        break;
      }
    }
  }
  return shown / frames;
}

function below(value: number, least: number): string {
  let digits = 2;
  while (digits < 6 && fixed(value, digits) === fixed(least, digits)) digits++;
  return `${fixed(value, digits)} below ${fixed(least, digits)}`;
}
