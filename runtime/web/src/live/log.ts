/** A landmark log, one JSON object a line, as `spoter-kit live --record` writes it. */

import { DataError } from "../errors.ts";
import { NUM_LANDMARKS } from "../landmarks.ts";
import type { Gate, StreamSettings } from "./settings.ts";

export interface LogFrame {
  t_ms: number;
  dropped: number;
  persons: number | null;
  landmarks: (readonly [number, number] | null)[];
}

export interface LandmarkLog {
  gate: Gate;
  settings: Partial<StreamSettings>;
  frames: LogFrame[];
}

/** Read a log; a last line that was cut off is left out. */
export function logFromText(text: string, where = "log"): LandmarkLog {
  const lines = text.split("\n");
  lines.pop(); // nothing, or a line that was cut off
  const numbered = lines.map((line, n) => [line, `${where}, line ${n + 1}`] as const).filter(([line], n) => n === 0 || line.trim());
  const [header, ...rest] = numbered.map(([line, at]) => ({ at, ...object(line, at) }) as Record<string, any>);
  if (header?.landmark_log !== 1) throw new DataError(`${where}: not a landmark log of version 1: its first line names none`, "record one: spoter-kit live --record FOLDER");
  const frames = rest.map((value): LogFrame => {
    const { at, t_ms, dropped = 0, persons = null, landmarks } = value;
    const numbers = [t_ms, dropped, persons ?? 0].every((one) => typeof one === "number");
    if (!numbers || !Array.isArray(landmarks) || landmarks.length !== NUM_LANDMARKS)
      throw new DataError(`${at}: not a frame`);
    return { t_ms, dropped, persons, landmarks };
  });
  return { gate: header.gate ?? "rest", settings: header.settings ?? {}, frames };
}

function object(line: string, where: string): Record<string, any> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new DataError(`${where}: not JSON: ${(error as Error).message}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new DataError(`${where}: expected an object`);
  return value;
}
