/** Refuse an ONNX file that spoter-kit does not write, and read its metadata, before ONNX Runtime sees it. */

import { BackendError, BundleError, ValueError } from "../errors.ts";
import { shown } from "../strict.ts";

// Field numbers of onnx.proto, which never change.
const MODEL = { graph: 7, metadata: 14, training: 20, functions: 25 };
const GRAPH = { node: 1, initializer: 5, sparse: 15 };
const NODE = { opType: 4, domain: 7 };
const TENSOR = { dims: 1, external: 13, location: 14 };

// The lists of the Python runtime (a test compares them).
const STANDARD = `
  Abs Add And Attention Cast Clip Concat Constant Conv Div DynamicQuantizeLinear Equal Erf
  Expand Gather Gelu Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual MatMul
  MatMulInteger Max Min Mul Neg Not Or Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu
  Reshape Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
`;
const MICROSOFT = `
  BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
  MatMulIntegerToFloat QuickGelu SkipLayerNormalization
`;
const names = (text: string) => new Set(text.split(/\s+/).filter(Boolean));
const OPERATORS: Record<string, Set<string>> = { "": names(STANDARD), "com.microsoft": names(MICROSOFT) };
const FIX = "take a bundle that spoter-kit exported";

type Field = number | Uint8Array;
type Fields = Map<number, Field[]>;

/** Check the bytes of an ONNX file, and return its metadata. */
export function checkedMetadata(content: Uint8Array, where: string): Map<string, string> {
  try {
    if (!content.length) throw new ValueError("it is empty");
    const model = fieldsOf(content);
    for (const what of ["functions", "training"] as const) if (model.has(MODEL[what])) throw new ValueError(`it holds ${what}`);
    if (model.get(MODEL.graph)?.length !== 1) throw new ValueError("it is no ONNX file");
    const graph = fieldsOf(messages(model, MODEL.graph)[0]);
    if (graph.has(GRAPH.sparse)) throw new ValueError("it holds sparse weights");
    for (const node of messages(graph, GRAPH.node)) checkNode(fieldsOf(node), where);
    for (const tensor of messages(graph, GRAPH.initializer)) checkTensor(fieldsOf(tensor), tensor.length);
    return new Map(messages(model, MODEL.metadata).map(fieldsOf).map((entry) => [textOf(entry, 1), textOf(entry, 2)]));
  } catch (error) {
    if (error instanceof ValueError) throw new BundleError(`${where}: refused: ${error.message}`, FIX);
    throw error;
  }
}

function checkNode(node: Fields, where: string): void {
  const domain = textOf(node, NODE.domain), opType = textOf(node, NODE.opType);
  if (OPERATORS[domain.replace(/^ai\.onnx/, "")]?.has(opType)) return;
  throw new BackendError(`${where}: has an operator ${shown(`${domain}.${opType}`.replace(/^\.+/, ""))}, which spoter-kit does not write`, "a newer version of the page, if a newer version of spoter-kit wrote the bundle");
}

function checkTensor(tensor: Fields, sizeBytes: number): void {
  if (tensor.has(TENSOR.external) || (tensor.get(TENSOR.location) ?? []).some((value) => value !== 0)) throw new ValueError("its weights are in another file");
  let count = 1;
  for (const value of tensor.get(TENSOR.dims) ?? []) for (const size of typeof value === "number" ? [value] : varints(value)) count *= size;
  if (count > 2 * sizeBytes) throw new ValueError("a tensor is larger than its values");
}

function messages(fields: Fields, number: number): Uint8Array[] {
  return (fields.get(number) ?? []).map((value) => {
    if (typeof value === "number") throw new ValueError("no protobuf message: a number instead of a part");
    return value;
  });
}

/** Return the fields of a protobuf message: number → values. */
function fieldsOf(message: Uint8Array): Fields {
  const found: Fields = new Map();
  const reader = { message, at: 0 };
  while (reader.at < message.length) {
    const key = varint(reader);
    const number = Math.floor(key / 8), wire = key % 8;
    let value: Field;
    if (wire === 0) value = varint(reader);
    else {
      if (wire !== 2 && wire !== 1 && wire !== 5) throw new ValueError(`no protobuf message: wire type ${wire}`);
      const size = wire === 2 ? varint(reader) : wire === 1 ? 8 : 4;
      if (reader.at + size > message.length) throw new ValueError("truncated");
      value = message.subarray(reader.at, reader.at + size);
      reader.at += size;
    }
    const values = found.get(number);
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
