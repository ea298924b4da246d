#include "onnx_file.hpp"

#include <cstdint>
#include <functional>

#include "error.hpp"
#include "json.hpp"

namespace spoter::detail {
namespace {

// The operators of our exporter, of its passes, and of ONNX Runtime's optimiser; a test compares them with Python's.
// No Loop, If or Scan: a file from a stranger could run for ever.
constexpr std::string_view standard =
    " Abs Add And Attention Cast Clip Concat Constant Conv Div DynamicQuantizeLinear Equal Erf"
    " Expand Gather Gelu Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual MatMul"
    " MatMulInteger Max Min Mul Neg Not Or Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu"
    " Reshape Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where ";
constexpr std::string_view microsoft =
    " BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu"
    " MatMulIntegerToFloat QuickGelu SkipLayerNormalization ";

struct Entry {
  uint64_t number;
  bool is_number;
  uint64_t value;          // of a number
  std::string_view bytes;  // of anything else
};

uint64_t varint(std::string_view message, size_t &at) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at >= message.size()) throw ValueError{"truncated"};
    const auto byte = static_cast<unsigned char>(message[at++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw ValueError{"no protobuf message: a number of more than 64 bits"};
}

void each_field(std::string_view message, const std::function<void(const Entry &)> &read) {
  for (size_t at = 0; at < message.size();) {
    const uint64_t key = varint(message, at);
    Entry field = {key >> 3, (key & 7) == 0, 0, {}};
    if (field.is_number) {
      field.value = varint(message, at);
    } else {
      const unsigned type = key & 7;
      if (type != 1 && type != 2 && type != 5)
        throw ValueError{"no protobuf message: wire type " + std::to_string(type)};
      const uint64_t size = type == 2 ? varint(message, at) : type == 1 ? 8 : 4;
      if (size > message.size() - at) throw ValueError{"truncated"};
      field.bytes = message.substr(at, size);
      at += size;
    }
    read(field);
  }
}

void check_node(std::string_view node, const std::string &where) {
  std::string type, domain;
  each_field(node, [&](const Entry &field) {
    if (field.number == 4) type = field.bytes;
    if (field.number == 7) domain = field.bytes;
  });
  if (domain == "ai.onnx") domain.clear();
  const std::string_view known = domain.empty() ? standard : domain == "com.microsoft" ? microsoft : "";
  if (!type.empty() && type.find(' ') == type.npos && known.find(" " + type + " ") != known.npos) return;
  const std::string name = shown(domain.empty() ? type : domain + "." + type);
  fail(SPOTER_BACKEND_ERROR,
       where + ": has an operator " + name + ", which spoter-kit " + spoter_version() + " does not write",
       "pip install --upgrade spoter-kit, if a newer version wrote the bundle");
}

void check_tensor(std::string_view tensor) {
  uint64_t count = 1;
  bool elsewhere = false;
  const auto times = [&](uint64_t size) { count = size && count > UINT64_MAX / size ? UINT64_MAX : count * size; };
  each_field(tensor, [&](const Entry &field) {
    if (field.number == 1 && field.is_number) times(field.value);
    if (field.number == 1 && !field.is_number)
      for (size_t at = 0; at < field.bytes.size();) times(varint(field.bytes, at));
    if (field.number == 13 || (field.number == 14 && (field.value || !field.is_number))) elsewhere = true;
  });
  if (elsewhere) throw ValueError{"its weights are in another file"};
  if (count > 2 * tensor.size()) throw ValueError{"a tensor is larger than its values"};  // four bits are the least
}

}  // namespace

std::map<std::string, std::string> check_onnx(std::string_view content, const std::string &where) try {
  if (content.empty()) throw ValueError{"it is empty"};
  std::map<std::string, std::string> metadata;
  std::string_view graph;
  size_t graphs = 0;
  bool functions = false, training = false;
  each_field(content, [&](const Entry &field) {
    if (field.number == 25) functions = true;
    if (field.number == 20) training = true;
    if (field.number == 7) ++graphs, graph = field.bytes;
    if (field.number == 14) {
      std::string name, value;
      each_field(field.bytes, [&](const Entry &entry) { (entry.number == 1 ? name : value) = entry.bytes; });
      metadata[name] = value;
    }
  });
  if (functions) throw ValueError{"it holds functions"};
  if (training) throw ValueError{"it holds training"};
  if (graphs != 1) throw ValueError{"it is no ONNX file"};
  each_field(graph, [&](const Entry &field) {
    if (field.number == 15) throw ValueError{"it holds sparse weights"};
  });
  each_field(graph, [&](const Entry &field) {
    if (field.number == 1) check_node(field.bytes, where);
    if (field.number == 5) check_tensor(field.bytes);
  });
  return metadata;
} catch (const ValueError &error) {
  bad_bundle(where + ": refused: " + error.message, "take a bundle that spoter-kit exported");
}

}  // namespace spoter::detail
