/** The landmarker's networks: read with their hashes, run, and compared with their stored answers. */

import type * as Ort from "onnxruntime-common";
import { checkedMetadata } from "../bundle/model_file.ts";
import { namesOf, readArrays, type NumpyArray } from "../bundle/npz.ts";
import { openSession, type BackendName, type Engine } from "../engine.ts";
import { BackendError, BundleError, ValueError } from "../errors.ts";
import { checkDigest, fetched, OTHER_BYTES, type OnProgress } from "../files.ts";

export const BODY_GRAPHS = ["pose_detection", "pose"] as const;
export const HAND_GRAPHS = ["recrop", "hand"] as const;
const GRAPHS = [...BODY_GRAPHS, ...HAND_GRAPHS];
export type Graph = (typeof GRAPHS)[number];

/** A body or a hand is there. */
export const PRESENT = 0.5;

/** Graph → the bytes of its ONNX file. */
export type Contents = Partial<Record<Graph, Uint8Array<ArrayBuffer>>>;
/** Stored answers `GRAPH/N`, and their inputs `GRAPH:INPUT`. */
export type Stored = Map<string, NumpyArray>;

/** A picture's pixels, three bytes each. */
export interface Frame {
  width: number;
  height: number;
  rgb: Uint8Array<ArrayBuffer>;
}

const MANIFEST = "landmarker.json";
const FETCH = "spoter-kit landmarker fetch --force";

/** Some of the networks, opened in one engine. */
export class Graphs {
  private constructor(private readonly engine: Engine, private readonly sessions: Partial<Record<Graph, Ort.InferenceSession>>) {}

  /** Open those of `names`; `base` names their folder in errors. */
  static async open(engine: Engine, base: string, contents: Contents, names: readonly Graph[]): Promise<Graphs> {
    const sessions: Partial<Record<Graph, Ort.InferenceSession>> = {};
    for (const name of names) {
      const where = `${base}${name}.onnx`;
      checkedMetadata(contents[name]!, where);
      sessions[name] = await openSession(engine, contents[name]!, where);
    }
    return new Graphs(engine, sessions);
  }

  get backend(): BackendName {
    return this.engine.files.backend;
  }

  /** Free the networks. */
  close(): void {
    for (const session of Object.values(this.sessions)) void session.release();
  }

  /** Return a network's outputs. */
  async run(graph: Graph, inputs: Record<string, Ort.Tensor>): Promise<Float32Array[]> {
    const session = this.sessions[graph]!;
    try {
      const found = await session.run(inputs);
      return session.outputNames.map((name) => found[name].data as Float32Array);
    } catch (error) {
      throw new BackendError(`${graph}.onnx: ONNX Runtime Web failed: ${(error as Error).message ?? error}`);
    }
  }

  floats(data: Float32Array, ...shape: number[]): Ort.Tensor {
    return new this.engine.ort.Tensor("float32", data, shape);
  }

  pixels({ rgb, height, width }: Frame): Ort.Tensor {
    return new this.engine.ort.Tensor("uint8", rgb, [height, width, 3]);
  }

  /** Return each network's largest difference from its stored answers, relative to values above 1. */
  async verify(stored: Stored): Promise<Record<string, number>> {
    const differences: Record<string, number> = {};
    for (const graph of Object.keys(this.sessions) as Graph[]) {
      const inputs: Record<string, Ort.Tensor> = {};
      for (const [name, { dtype, data, shape }] of stored)
        if (name.startsWith(`${graph}:`)) inputs[name.slice(graph.length + 1)] = new this.engine.ort.Tensor(dtype as "float32", data as Float32Array, shape);
      const answers = await this.run(graph, inputs);
      differences[graph] = Math.max(...answers.map((answer, n) => largest(answer, stored.get(`${graph}/${n}`)!.data as Float32Array)));
    }
    return differences;
  }
}

function largest(found: Float32Array, expected: Float32Array): number {
  return expected.reduce((most, value, i) => {
    const difference = Math.abs(found[i] - value) / Math.max(1, Math.abs(value));
    return Number.isNaN(value) && Number.isNaN(found[i]) ? most : difference <= most ? most : Number.isNaN(difference) ? Infinity : difference;
  }, 0);
}

/** Return the landmarker's own hash, and its networks after comparing each with its hash. */
export async function readGraphs(base: string, packed: readonly string[], onProgress?: OnProgress): Promise<{ sha256: string; contents: Contents }> {
  const stated = await readManifest(base);
  const contents: Contents = {};
  for (const graph of GRAPHS) {
    const name = `${graph}.onnx`;
    const content = await fetched(base + name, { mostBytes: OTHER_BYTES, packed: packed.includes(name), onProgress });
    if (!content) throw new BundleError(`${base}${name}: is missing`, FETCH);
    await checkDigest(base + name, content, stated.hashes[name], FETCH);
    contents[graph] = content;
  }
  return { sha256: stated.sha256, contents };
}

async function readManifest(base: string): Promise<{ sha256: string; hashes: Record<string, string> }> {
  const content = await fetched(base + MANIFEST, { mostBytes: 2 ** 20 });
  if (!content) throw new BundleError(`${base}: no landmarker there`, "spoter-kit landmarker fetch, then spoter-kit export --web");
  try {
    const value = JSON.parse(new TextDecoder().decode(content));
    if (value.schema_version !== 1) throw new BundleError(`${base}${MANIFEST}: schema ${value.schema_version}, this version reads 1`, FETCH);
    const hashes: Record<string, string> = value.files;
    const missing = GRAPHS.map((name) => `${name}.onnx`).filter((name) => typeof hashes[name] !== "string");
    if (missing.length) throw new BundleError(`${base}${MANIFEST}: does not list ${missing.join(", ")}`);
    return { sha256: String(value.sha256), hashes };
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${base}${MANIFEST}: is damaged: ${(error as Error).message}`, FETCH);
  }
}

/** The site's goldens hold the inputs too: Python makes them with a generator of NumPy's. */
export async function readStored(base: string): Promise<Stored> {
  const content = await fetched(`${base}web-goldens.npz`, { mostBytes: 2 ** 24 });
  if (!content) throw new BundleError(`${base}web-goldens.npz: is missing`, "spoter-kit export --web");
  try {
    const names = namesOf(content);
    const arrays = await readArrays(content, names, 2 ** 24);
    return new Map(arrays.map((array, n) => [names[n], array]));
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${base}web-goldens.npz: cannot be read: ${error.message}`);
    throw error;
  }
}
