/** The recognizer inside the worker: from a bundle and a clip of landmarks to a label. */

import type * as Ort from "onnxruntime-common";
import { replayGoldens, type Replay } from "./bundle/goldens.ts";
import { METADATA_KEY, contractFromJson, type Contract, type Label } from "./bundle/contract.ts";
import { readBundle, type Artefact, type Bundle } from "./bundle/manifest.ts";
import { checkedMetadata } from "./bundle/model_file.ts";
import { argmax, decide, softmax } from "./decision.ts";
import { Engines, checkTensors, openSession, type BackendName, type Engine, type EngineOptions } from "./engine.ts";
import { BackendError, BundleError, ConfigError, NotFiniteError } from "./errors.ts";
import type { OnProgress } from "./files.ts";
import { checkAsked, proven, type Asked, type Chosen } from "./gpu.ts";
import { NUM_FEATURES, checkClip, checkCoordinates, resampleClip, type ClipLike } from "./landmarks.ts";
import { tupleText } from "./python.ts";
import { jsonFromText } from "./strict.ts";

/** What a clip shows, by the names of Python's `Prediction`. */
export interface Prediction {
  label: string;
  sign: Label;
  /** Softmax share of the label, not calibrated. */
  score: number;
  logits: Float32Array;
  /** Up to five labels, the best first. */
  best: { label: string; score: number }[];
  latency_ms: number;
  /** Calibrated; null where the bundle has no calibration. */
  probability: number | null;
  is_sign: boolean | null;
  reason: string;
}

export interface RecognizerOptions {
  precision?: string;
  /** Treatment of a clip longer than the model takes. */
  long?: "error" | "resample";
  backend?: Asked;
}

const BEST = 5;

export class CoreRecognizer {
  private constructor(
    readonly bundle: Bundle,
    readonly artefact: Artefact,
    readonly engines: Engines,
    private readonly engine: Engine,
    private readonly session: Ort.InferenceSession,
    private readonly long: "error" | "resample",
  ) {}

  get contract(): Contract {
    return this.bundle.contract;
  }

  get labels(): Label[] {
    return this.contract.labels;
  }

  /** The labels that stand for no sign. */
  get background(): string[] {
    return this.bundle.abstention?.background ?? [];
  }

  get backend(): BackendName {
    return this.engine.files.backend;
  }

  static async load(url: string, options: RecognizerOptions, where: EngineOptions, onProgress?: OnProgress): Promise<Chosen<CoreRecognizer>> {
    const { precision = "fp32", long = "error", backend = "wasm" } = options;
    if (long !== "error" && long !== "resample") throw new ConfigError(`long='${long as string}': expected 'error' or 'resample'`);
    checkAsked(backend);
    const engines = new Engines(where);
    const bundle = await readBundle(url);
    const loading = engines.load("wasm", onProgress); // beside the model
    loading.catch(() => undefined); // where the model is refused, its reason counts
    const open = async (artefact: Artefact, started: Promise<Engine>) => {
      const path = bundle.url + artefact.path;
      const content = await bundle.read(artefact.path, onProgress);
      checkContract(checkedMetadata(content, path), bundle, path);
      const engine = await started;
      const session = await openSession(engine, content, path, artefact.kind === "onnx");
      checkTensors(session, bundle.contract, path);
      return new CoreRecognizer(bundle, artefact, engines, engine, session, long);
    };
    const plain = bundle.onnx(precision), optimised = bundle.optimised(precision);
    const wasm = optimised ? open(optimised, loading).catch((error: unknown) => orPlain(error, () => open(plain, loading))) : open(plain, loading);
    return proven(backend, await wasm, engines.name + bundle.seal + precision, () => open(plain, engines.load("webgpu", onProgress)));
  }

  /** Return the sign in one clip. */
  async predict(clip: ClipLike, name = "clip"): Promise<Prediction> {
    const most = this.contract.max_frames;
    let checked = checkClip(clip, most, name, this.long === "resample");
    if (checked.length > most * NUM_FEATURES) checked = resampleClip(checked, most);
    const begin = performance.now();
    const logits = await this.infer(checked);
    const latency_ms = performance.now() - begin;
    const shares = softmax(logits);
    const order = [...shares.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, BEST);
    const sign = this.labels[argmax(logits)];
    return {
      label: sign.name,
      sign,
      score: shares[order[0]],
      logits,
      best: order.map((c) => ({ label: this.labels[c].name, score: shares[c] })),
      latency_ms,
      ...decide(logits, this.labels, checked, this.bundle.abstention),
    };
  }

  /** Return the logits of one checked clip, also of one in which nothing was detected. */
  async infer(clip: Float32Array): Promise<Float32Array> {
    const frames = clip.length / NUM_FEATURES;
    const shape = [1, frames, NUM_FEATURES];
    checkCoordinates(clip, shape, "poses");
    let found: Ort.Tensor;
    try {
      const feeds = {
        poses: new this.engine.ort.Tensor("float32", clip, shape),
        lengths: new this.engine.ort.Tensor("int32", Int32Array.of(frames), [1]),
      };
      found = (await this.session.run(feeds)).logits;
    } catch (error) {
      throw new BackendError(`${this.backend}: failed on poses (${shape.join(", ")}): ${(error as Error).message ?? error}`);
    }
    const expected = `${tupleText([1, this.labels.length])} float32`, got = `${tupleText(found.dims)} ${found.type}`;
    if (got !== expected) throw new BackendError(`${this.backend}: expected logits ${expected}, got ${got}`);
    const logits = found.data as Float32Array;
    if (!logits.every(Number.isFinite)) throw new NotFiniteError(`${this.backend}: logits are not finite for poses (${shape.join(", ")})`);
    return logits.slice();
  }

  /** Free the model. */
  close(): void {
    void this.session.release();
  }

  /** Replay the bundle's goldens in this browser. */
  async verify(): Promise<Replay> {
    const { max_logit_diff, precision } = this.artefact;
    return replayGoldens(await this.bundle.goldens(), (clip) => this.infer(clip), max_logit_diff, precision === "fp32");
  }
}

/** Where the engine cannot run the optimised file, as an older one; a damaged bundle is no engine's fault. */
function orPlain<T>(error: unknown, open: () => Promise<T>): Promise<T> {
  if (error instanceof BackendError) return open();
  throw error;
}

function checkContract(metadata: Map<string, string>, bundle: Bundle, where: string): void {
  const text = metadata.get(METADATA_KEY);
  if (text === undefined) throw new BundleError(`${where}: no '${METADATA_KEY}' in its metadata, so it was not exported by spoter-kit`);
  const carried = contractFromJson(jsonFromText(text), where);
  if (JSON.stringify(carried) !== JSON.stringify(bundle.contract)) throw new BundleError(`${bundle.url}: the model carries another contract than bundle.json`);
}
