/** The graph contract: the labels, and the shapes that a model takes. */

import { BundleError, ValueError } from "../errors.ts";
import { JsonNumber, anyTable, canonical, listOf, pairOf, record, shown, tableOf, text, whole, type Json } from "../strict.ts";
import { NUM_FEATURES } from "../landmarks.ts";

export const METADATA_KEY = "spoter_kit.contract";
const MOST: Record<string, number> = { frames: 100_000, batch: 100_000 };

/** One class. `name` is unique; the other fields are for display. */
export interface Label {
  name: string;
  gloss: string;
  bengali: string;
  romanised: string;
}

export interface Contract {
  labels: Label[];
  max_frames: number;
  max_batch: number;
}

const label = record<{ name: string; gloss: string; bengali: string; romanised: string }>(
  { name: text, gloss: text, bengali: text, romanised: text },
  { gloss: "", bengali: "", romanised: "" },
);

/** Read a contract; `where` names the file. */
export function contractFromJson(value: Json, where: string): Contract {
  try {
    const stated = anyTable(value, "contract");
    const ranges = tableOf(pairOf(whole))(stated.get("ranges"), "contract.ranges");
    const labels = listOf(label)(stated.get("labels"), "contract.labels");
    const most: Record<string, number> = {};
    for (const name of ["frames", "batch"]) {
      const range = ranges.get(name);
      if (!range) throw new BundleError(`${where}: contract.ranges has no '${name}'`);
      most[name] = range[1];
    }
    for (const name of ["frames", "batch"])
      if (!(most[name] >= 1 && most[name] <= MOST[name])) throw new ValueError(`contract.ranges.${name}: up to ${most[name]}, expected 1..${MOST[name]}`);
    const names = labels.map((one) => one.name);
    if (!names.length || names.includes("") || new Set(names).size < names.length)
      throw new ValueError("contract.labels: expected at least one, each with a name of its own");
    for (const [name, claim] of claims(labels.length, most.frames, most.batch))
      if (canonical(stated.get(name) ?? null) !== canonical(claim)) throw new ValueError(`contract.${name}: ${shown(stated.get(name))}, expected ${shown(claim)}`);
    return { labels, max_frames: most.frames, max_batch: most.batch };
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${where}: ${error.message}`);
    throw error;
  }
}

/** What every contract says: the tensors, the smallest shapes, and how missing landmarks are written. */
function claims(classes: number, frames: number, batch: number): [string, Json][] {
  const int = (value: number) => new JsonNumber(String(value));
  const tensor = (dtype: string, ...shape: Json[]) => new Map<string, Json>([["dtype", dtype], ["shape", shape]]);
  return [
    ["inputs", new Map([["poses", tensor("float32", "batch", "frames", int(NUM_FEATURES))], ["lengths", tensor("int32", "batch")]])],
    ["outputs", new Map([["logits", tensor("float32", "batch", int(classes))]])],
    ["ranges", new Map([["batch", [int(1), int(batch)]], ["frames", [int(1), int(frames)]]])],
    ["missing", "NaN or (0, 0)"],
  ];
}
