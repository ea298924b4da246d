/** Refuse an ONNX file that spoter-kit does not write, and read its metadata, before ONNX Runtime sees it. */

import { BackendError, BundleError, ValueError } from "../errors.ts";
import { shown } from "../strict.ts";

// Field numbers of onnx.proto, which never change.
const MODEL = { graph: 7, metadata: 14, training: 20, functions: 25 };
const GRAPH = { node: 1, initializer: 5, sparse: 15 };
const NODE = { opType: 4, attribute: 5, domain: 7 };
const ATTRIBUTE = { tensor: 5 };
const TENSOR = { dims: 1, external: 13, location: 14 };

// The lists of the Python runtime (a test compares them).
const STANDARD = `
  Abs Add And ArgMax Attention Cast CastLike Clip Concat Constant Conv DepthToSpace Div
  DynamicQuantizeLinear Equal Erf Expand Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool
  Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual MatMul MatMulInteger Max
  MaxPool Min Mul Neg Not Or Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
  Relu Reshape Resize Round Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose
  Unsqueeze Where
`;
const MICROSOFT = `
  BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
  MatMulIntegerToFloat QuickGelu SkipLayerNormalization
`;
const names = (text: string) => new Set(text.split(/\s+/).filter(Boolean));
const OPERATORS: Record<string, Set<string>> = { "": names(STANDARD), "com.microsoft": names(MICROSOFT) };

/**
 * The messages of onnx.proto, as in Python: field numbers by kind: whole number, float, bytes; lists of them in capitals.
 * A reader of protobuf ignores a field that it does not know, or that has another wire type than its own, so two
 * readers could see different files. Here such a field is an error.
 */
const WIRE_TYPES: Record<string, number[]> = { i: [0], f: [5], s: [2], I: [0, 2], F: [5, 2], D: [1, 2], S: [2] };
class Schema {
  readonly keys = new Set<number>();
  readonly single = new Set<number>();

  constructor(readonly name: string, kinds: Record<string, number[]>) {
    for (const [kind, numbers] of Object.entries(kinds))
      for (const number of numbers) {
        for (const wire of WIRE_TYPES[kind]) this.keys.add(number * 8 + wire);
        if (kind >= "a") this.single.add(number);
      }
  }
}
const SCHEMA = {
  model: new Schema("the model", { i: [1, 5], s: [2, 3, 4, 6, 7], S: [8, 14, 20, 25] }),
  graph: new Schema("the graph", { s: [2, 10], S: [1, 5, 11, 12, 13, 15, 16] }),
  node: new Schema("a node", { s: [3, 4, 6, 7, 8], S: [1, 2, 5, 9] }),
  attribute: new Schema("an attribute", { f: [2], i: [3, 20], s: [1, 4, 5, 13], F: [7], I: [8], S: [9] }),
  tensor: new Schema("a tensor", { i: [2, 14], I: [1, 5, 7, 11], F: [4], D: [10], s: [8, 9, 12], S: [6, 13, 16] }),
  entry: new Schema("an entry", { s: [1, 2] }),
};
const MOST_KEY_BYTES = 5;
const FIX = "take a bundle that spoter-kit exported";

type Field = number | Uint8Array;
type Fields = Map<number, Field[]>;

/** Check the bytes of an ONNX file, and return its metadata. */
export function checkedMetadata(content: Uint8Array, where: string): Map<string, string> {
  try {
    if (!content.length) throw new ValueError("it is empty");
    const model = fieldsOf(content, SCHEMA.model);
    for (const what of ["functions", "training"] as const) if (model.has(MODEL[what])) throw new ValueError(`it holds ${what}`);
    if (model.get(MODEL.graph)?.length !== 1) throw new ValueError("it is no ONNX file");
    const graph = fieldsOf(messages(model, MODEL.graph)[0], SCHEMA.graph);
    if (graph.has(GRAPH.sparse)) throw new ValueError("it holds sparse weights");
    for (const node of messages(graph, GRAPH.node)) checkNode(fieldsOf(node, SCHEMA.node), where);
    for (const tensor of messages(graph, GRAPH.initializer)) checkTensor(tensor);
    return new Map(messages(model, MODEL.metadata).map((entry) => fieldsOf(entry, SCHEMA.entry)).map((entry) => [textOf(entry, 1), textOf(entry, 2)]));
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${where}: refused: ${error.message}`, FIX);
    throw error;
  }
}

function checkNode(node: Fields, where: string): void {
  const domain = textOf(node, NODE.domain), opType = textOf(node, NODE.opType);
  if (!OPERATORS[domain === "ai.onnx" ? "" : domain]?.has(opType))
    throw new BackendError(`${where}: has an operator ${shown(`${domain}.${opType}`.replace(/^\.+/, ""))}, which spoter-kit does not write`, "a newer version of the page, if a newer version of spoter-kit wrote the bundle");
  for (const attribute of messages(node, NODE.attribute))
    for (const tensor of messages(fieldsOf(attribute, SCHEMA.attribute), ATTRIBUTE.tensor)) checkTensor(tensor);
}

function checkTensor(content: Uint8Array): void {
  const tensor = fieldsOf(content, SCHEMA.tensor);
  if (tensor.has(TENSOR.external) || (tensor.get(TENSOR.location) ?? []).some((value) => value !== 0)) throw new ValueError("its weights are in another file");
  let count = 1;
  for (const value of tensor.get(TENSOR.dims) ?? []) for (const size of typeof value === "number" ? [value] : varints(value)) count *= size;
  if (!(count <= 2 * content.length)) throw new ValueError("a tensor is larger than its values");
}

function messages(fields: Fields, number: number): Uint8Array[] {
  return (fields.get(number) ?? []).map((value) => {
    if (typeof value === "number") throw new ValueError("no protobuf message: a number instead of a part");
    return value;
  });
}

/** Return the fields of a protobuf message, which must be of the schema: number → values. */
function fieldsOf(message: Uint8Array, schema: Schema): Fields {
  const found: Fields = new Map();
  const reader = { message, at: 0 };
  while (reader.at < message.length) {
    const start = reader.at, key = varint(reader);
    const number = Math.floor(key / 8), wire = key % 8;
    if (!schema.keys.has(key) || reader.at - start > MOST_KEY_BYTES)
      throw new ValueError(`${schema.name} has a field ${number} of wire type ${wire}, which spoter-kit does not write`);
    let value: Field;
    if (wire === 0) value = varint(reader);
    else {
      const size = wire === 2 ? varint(reader) : wire === 1 ? 8 : 4;
      if (reader.at + size > message.length) throw new ValueError("truncated");
      value = message.subarray(reader.at, reader.at + size);
      reader.at += size;
    }
    const values = found.get(number);
    if (values && schema.single.has(number)) throw new ValueError(`${schema.name} has field ${number} twice`);
    if (values) values.push(value);
    else found.set(number, [value]);
  }
  return found;
}

function varint(reader: { message: Uint8Array; at: number }): number {
  let value = 0;
  for (let digit = 0; digit < 10; digit++) {
    if (reader.at >= reader.message.length) throw new ValueError("truncated");
    const byte = reader.message[reader.at++];
    if (digit === 9 && byte > 1) break;
    value += (byte & 0x7f) * 128 ** digit;
    if (byte < 0x80) return value;
  }
  throw new ValueError("no protobuf message: a number of more than 64 bits");
}

function varints(packed: Uint8Array): number[] {
  const reader = { message: packed, at: 0 }, found: number[] = [];
  while (reader.at < packed.length) found.push(varint(reader));
  return found;
}

function textOf(fields: Fields, number: number): string {
  const value = messages(fields, number).at(-1);
  try {
    return value ? new TextDecoder("utf-8", { fatal: true }).decode(value) : "";
  } catch {
    throw new ValueError("a name that is no text");
  }
}
