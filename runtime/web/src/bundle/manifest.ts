/** Read a bundle behind a URL: its manifest, the hashes of its files, the goldens. */

import { BundleError, ValueError } from "../errors.ts";
import { checkDigest, COPY_AGAIN, fetched, MODEL_BYTES, OTHER_BYTES, sha256, type OnProgress } from "../files.ts";
import type { Abstention } from "../decision.ts";
import { NUM_FEATURES } from "../landmarks.ts";
import { floatText, tupleText } from "../python.ts";
import { anyTable, canonical, jsonFromText, listOf, number, orNone, record, shown, tableOf, text, whole, type Json } from "../strict.ts";
import { contractFromJson, type Contract } from "./contract.ts";
import { readArrays } from "./npz.ts";

export const MANIFEST = "bundle.json";
const GOLDENS = "goldens.npz";
const SCHEMA_VERSION = "1";
const MANIFEST_BYTES = 2 ** 24;
const GOLDENS_BYTES = 2 ** 28;

export interface Artefact extends Record<string, unknown> {
  path: string;
  kind: string;
  precision: string;
  sha256: string;
  size_bytes: number;
  max_logit_diff: number;
  requires: Map<string, string>;
  engine: Map<string, Json> | null;
}

/** Stored inputs with the reference's answers: clips without padding, and their logits. */
export interface Goldens {
  clips: Float32Array[];
  logits: Float32Array[];
}

interface Manifest extends Record<string, unknown> {
  name: string;
  contract: Map<string, Json>;
  artefacts: Artefact[];
  files: Map<string, string>;
  provenance: Map<string, Json>;
  abstention: Map<string, Json> | null;
}

const artefact = record<Artefact>(
  {
    path: text,
    kind: text,
    precision: text,
    sha256: text,
    size_bytes: whole,
    max_logit_diff: number,
    requires: tableOf(text),
    engine: orNone(anyTable),
  },
  { requires: new Map(), engine: null },
);

const manifest = record<Manifest>(
  {
    name: text,
    contract: anyTable,
    artefacts: listOf(artefact),
    files: tableOf(text),
    provenance: anyTable,
    abstention: orNone(anyTable),
  },
  { abstention: null },
);

const abstention = record<Abstention & Record<string, unknown>>(
  {
    temperature: number,
    min_probability: number,
    min_margin: number,
    min_hand_share: number,
    target: number,
    min_likeness: number,
    background: listOf(text),
    typical_logits: listOf(text),
    evidence: anyTable,
  },
  { min_likeness: -1, background: [], typical_logits: [], evidence: new Map() },
);

/** A bundle whose manifest has been read and checked; files are hashed when they are read. */
export class Bundle {
  constructor(
    readonly url: string,
    /** The hash of the manifest, which holds those of all files. */
    readonly seal: string,
    readonly name: string,
    readonly contract: Contract,
    readonly artefacts: readonly Artefact[],
    readonly files: ReadonlyMap<string, string>,
    readonly provenance: ReadonlyMap<string, Json>,
    readonly abstention: Abstention | null,
  ) {}

  /** Return the ONNX artefact of a precision. */
  onnx(precision = "fp32"): Artefact {
    const found = this.artefacts.filter((one) => one.kind === "onnx");
    const chosen = found.find((one) => one.precision === precision);
    if (chosen) return chosen;
    const all = found.map((one) => one.precision).join(", ") || "none at all";
    throw new BundleError(`${this.url}: has no ${precision} ONNX file, only ${all}`, "export the RUN again with --precision, or take one of those");
  }

  /** Return the file of a precision that ONNX Runtime has optimised already, for any processor; null where there is none. */
  optimised(precision: string): Artefact | null {
    return this.artefacts.find((one) => one.kind === "ort" && one.precision === precision) ?? null;
  }

  /** Return how many bytes a file may have: a model as many as the manifest says. */
  private mostBytes(path: string): number {
    const artefact = this.artefacts.find((one) => one.path === path);
    if (artefact) return Math.min(artefact.size_bytes, MODEL_BYTES);
    return path === GOLDENS ? GOLDENS_BYTES : OTHER_BYTES;
  }

  /** Return a listed file's bytes after comparing them with its hash. */
  async read(path: string, onProgress?: OnProgress): Promise<Uint8Array<ArrayBuffer>> {
    const expected = this.artefacts.find((one) => one.path === path)?.sha256 ?? this.files.get(path);
    if (expected === undefined) throw new BundleError(`${this.url}: ${path} is not listed in ${MANIFEST}`);
    const content = await fetched(this.url + path, { mostBytes: this.mostBytes(path), note: `listed in ${MANIFEST} but `, onProgress });
    if (!content) throw new BundleError(`${this.url}: ${path} is listed in ${MANIFEST} but is not there`, COPY_AGAIN);
    await checkDigest(this.url + path, content, expected);
    return content;
  }

  /** Load the golden inputs and reference logits. */
  async goldens(): Promise<Goldens> {
    try {
      const arrays = await readArrays(await this.read(GOLDENS), ["poses", "lengths", "logits"], GOLDENS_BYTES);
      const kinds = arrays.map((array) => array.dtype);
      if (kinds.join() !== "float32,int32,float32") throw new ValueError(`poses, lengths and logits are ${kinds.join(", ")}, expected float32, int32 and float32`);
      const [poses, lengths, logits] = arrays;
      const [clips, frames] = poses.shape.length === 3 ? poses.shape : [0, 0];
      const classes = this.contract.labels.length;
      const expected = [[clips, frames, NUM_FEATURES], [clips], [clips, classes]];
      const found = arrays.map((array) => tupleText(array.shape));
      if (found.join() !== expected.map(tupleText).join() || clips < 1)
        throw new ValueError(`poses, lengths and logits are [${found.join(", ")}]; expected one row a clip, at least one, and ${classes} classes`);
      const most = Math.min(frames, this.contract.max_frames);
      if (lengths.data.some((length) => length < 1 || length > most)) throw new ValueError(`a clip's frames are not within 1..${most}`);
      const rows = Array.from(lengths.data as Int32Array);
      return {
        clips: rows.map((length, n) => (poses.data as Float32Array).slice(n * frames * NUM_FEATURES, (n * frames + length) * NUM_FEATURES)),
        logits: rows.map((_, n) => (logits.data as Float32Array).slice(n * classes, (n + 1) * classes)),
      };
    } catch (error) {
      if (error instanceof ValueError) throw new BundleError(`${this.url}${GOLDENS}: cannot be read: ${error.message}`);
      throw error;
    }
  }
}

/** Read and check a bundle's manifest; `url` is its folder. */
export async function readBundle(url: string): Promise<Bundle> {
  const base = url.endsWith("/") ? url : `${url}/`;
  const where = base + MANIFEST;
  const content = await parsedManifest(base, where);
  if (!(content instanceof Map) || !content.has("schema_version")) throw new BundleError(`${where}: not the manifest of a spoter-kit bundle`);
  const version = canonical(content.get("schema_version")!);
  if (version !== SCHEMA_VERSION) throw new BundleError(`${where}: schema version ${version}, this page reads ${SCHEMA_VERSION}`, "a newer version of the page: export it again with --web");
  const seal = content.get("manifest_sha256");
  if (seal === undefined || seal !== (await sealOf(content)))
    throw new BundleError(`${where}: its own hash does not fit its content, so it was changed or damaged`, COPY_AGAIN);
  try {
    const stated = manifest(known(content, ["name", "contract", "artefacts", "files", "provenance", "abstention"]), "");
    checkName(stated.name);
    stated.artefacts.forEach((one, i) => checkArtefact(one, `artefacts[${i}]`));
    for (const [name, digest] of stated.files) checkSha256(digest, `files.${name}`);
    const rule = stated.abstention && ruleFrom(stated.abstention);
    const contract = contractFromJson(stated.contract, where);
    const rows = rule?.typical_logits.length;
    if (rows && rows !== contract.labels.length)
      throw new ValueError(`abstention.typical_logits: ${rows} rows, expected one for each of ${contract.labels.length} labels`);
    checkPaths(base, where, [...stated.artefacts.map((one) => one.path), ...stated.files.keys()]);
    return new Bundle(base, seal, stated.name, contract, stated.artefacts, stated.files, stated.provenance, rule);
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${where}: ${error.message}`, "export the bundle again");
    throw error;
  }
}

async function parsedManifest(base: string, where: string): Promise<Json> {
  try {
    const bytes = await fetched(where, { mostBytes: MANIFEST_BYTES });
    if (!bytes) throw new BundleError(`${base}: not a bundle: it has no ${MANIFEST}`, "check the path, or spoter-kit export makes one");
    return jsonFromText(utf8(bytes));
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${where}: cannot be read as JSON: ${error.message}`, COPY_AGAIN);
    throw error;
  }
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new ValueError("it is not UTF-8");
  }
}

/** Return the hash of a manifest's values, without its seal; indentation does not count. */
async function sealOf(content: Map<string, Json>): Promise<string> {
  const rest = new Map([...content].filter(([name]) => name !== "manifest_sha256"));
  return sha256(new TextEncoder().encode(canonical(rest)));
}

const known = (content: Map<string, Json>, names: readonly string[]) => new Map([...content].filter(([name]) => names.includes(name)));

function checkName(name: string): void {
  if (!name || name.startsWith(".") || /[/\\\0\n\r]/.test(name) || new TextEncoder().encode(name).length > 150)
    throw new ValueError(`name: ${shown(name)}, expected a name of at most 150 bytes without a slash`);
}

function checkArtefact(one: Artefact, where: string): void {
  for (const name of ["kind", "precision"] as const)
    if (!/^[a-z0-9]{1,20}$/.test(one[name])) throw new ValueError(`${where}.${name}: ${shown(one[name])}, expected a name such as onnx or fp32`);
  checkSha256(one.sha256, `${where}.sha256`);
  if (one.size_bytes < 0) throw new ValueError(`${where}.size_bytes: ${one.size_bytes}`);
  if (!(one.max_logit_diff >= 0)) throw new ValueError(`${where}.max_logit_diff: ${floatText(one.max_logit_diff)}, expected at least 0`);
  if ((one.engine !== null) !== (one.kind === "engine")) throw new ValueError(`${where}: kind ${one.kind} ${one.engine === null ? "without" : "with"} engine`);
  for (const [name, version] of one.requires)
    if (!/^[\w. -]{1,60}$/.test(name) || !/^[\w.<>=!,+ -]{0,60}$/.test(version)) throw new ValueError(`${where}.requires: ${shown(name)}: ${shown(version)}`);
}

function checkSha256(value: string, where: string): void {
  if (!/^[0-9a-f]{64}$/.test(value)) throw new ValueError(`${where}: ${shown(value)}, expected 64 hexadecimal digits`);
}

function ruleFrom(value: Map<string, Json>): Abstention {
  const rule = abstention(known(value, ["temperature", "min_probability", "min_margin", "min_hand_share", "target", "min_likeness", "background", "typical_logits", "evidence"]), "abstention");
  if (!(rule.temperature > 0)) throw new ValueError(`temperature ${floatText(rule.temperature)}, expected more than 0`);
  for (const name of ["min_probability", "min_margin", "min_hand_share", "target"]) {
    const share = rule[name] as number;
    if (!(share >= 0 && share <= 1)) throw new ValueError(`${name} ${floatText(share)}, expected 0..1`);
  }
  if (!(rule.min_likeness >= -1 && rule.min_likeness <= 1)) throw new ValueError(`min_likeness ${floatText(rule.min_likeness)}, expected -1..1`);
  const labels = rule.typical_logits.length;
  for (const [i, row] of rule.typical_logits.entries())
    if (!/^-?[0-9]{1,6}(?: -?[0-9]{1,6})*$/.test(row) || row.split(" ").length !== labels)
      throw new ValueError(`typical_logits[${i}], expected ${labels} whole numbers with a space between`);
  return rule;
}

function checkPaths(base: string, where: string, listed: string[]): void {
  if (new Set(listed).size < listed.length) throw new BundleError(`${where}: a file is listed twice`);
  for (const path of listed) {
    const outside = path.startsWith("/") || path.split("/").includes("..") || path.includes("\\");
    // What Python's paths do not know: another host, a scheme, a query.
    if (outside || !new URL(path, base).href.startsWith(base) || /[?#]/.test(path))
      throw new BundleError(`${where}: path ${shown(path)} points outside the bundle; refused`);
  }
}

