#include "onnx_file.hpp"

#include <cstdint>
#include <functional>
#include <vector>

#include "error.hpp"
#include "json.hpp"

namespace spoter::detail {
namespace {

// The operators of our exporter, of its passes, of ONNX Runtime's optimiser, and of the landmarker; a test compares them
// with Python's.
// No Loop, If or Scan: a file from a stranger could run for ever.
constexpr std::string_view standard =
    " Abs Add And ArgMax Attention Cast CastLike Clip Concat Constant Conv DepthToSpace Div"
    " DynamicQuantizeLinear Equal Erf Expand Flatten Floor Gather GatherElements Gelu Gemm GlobalAveragePool"
    " Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual MatMul MatMulInteger Max"
    " MaxPool Min Mul Neg Not Or Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
    " Relu Reshape Resize Round Shape Sigmoid Sign Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose"
    " Unsqueeze Where ";
constexpr std::string_view microsoft =
    " BiasGelu BiasSoftmax DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu"
    " MatMulIntegerToFloat QuickGelu SkipLayerNormalization ";

constexpr size_t most_fields = 27;

// A message of onnx.proto: its fields by kind, as in Python: whole number, float, bytes, and lists of them in capitals.
// A reader of protobuf ignores a field that it does not know, or that has another wire type than its own, so two
// readers could see different files. Here such a field is an error.
struct Schema {
  const char *name;
  std::string_view kinds[most_fields];  // by field number; at most one letter each
};

constexpr Schema model_schema = {"the model", {"", "i", "s", "s", "s", "i", "s", "s", "S", "", "", "", "", "", "S",
                                               "", "", "", "", "", "S", "", "", "", "", "S"}};
constexpr Schema graph_schema = {
    "the graph", {"", "S", "s", "", "", "S", "", "", "", "", "s", "S", "S", "S", "", "S", "S"}};
constexpr Schema node_schema = {"a node", {"", "S", "S", "s", "s", "S", "s", "s", "s", "S"}};
constexpr Schema attribute_schema = {"an attribute", {"", "s", "f", "i", "s", "s", "", "F", "I", "S", "", "", "",
                                                      "s", "", "", "", "", "", "", "i"}};
constexpr Schema tensor_schema = {
    "a tensor", {"", "I", "i", "", "F", "I", "S", "I", "s", "s", "D", "I", "s", "S", "i", "", "S"}};
constexpr Schema entry_schema = {"an entry", {"", "s", "s"}};

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
    if (shift == 63 && byte > 1) break;
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw ValueError{"no protobuf message: a number of more than 64 bits"};
}

// Tells whether a field of a kind may have a wire type.
bool may_have(char kind, unsigned wire) {
  if (wire == 0) return kind == 'i' || kind == 'I';
  if (wire == 1) return kind == 'D';
  if (wire == 5) return kind == 'f' || kind == 'F';
  return wire == 2 && kind != 'i' && kind != 'f';
}

void each_field(std::string_view message, const Schema &schema, const std::function<void(const Entry &)> &read) {
  bool seen[most_fields] = {};
  for (size_t at = 0; at < message.size();) {
    const size_t start = at;
    const uint64_t key = varint(message, at), number = key >> 3;
    const unsigned wire = key & 7;
    const std::string_view kind = number < most_fields ? schema.kinds[number] : "";
    if (kind.empty() || !may_have(kind[0], wire) || at - start > 5)
      throw ValueError{std::string(schema.name) + " has a field " + std::to_string(number) + " of wire type " +
                       std::to_string(wire) + ", which spoter-kit does not write"};
    Entry field = {number, wire == 0, 0, {}};
    if (field.is_number) {
      field.value = varint(message, at);
    } else {
      const uint64_t size = wire == 2 ? varint(message, at) : wire == 1 ? 8 : 4;
      if (size > message.size() - at) throw ValueError{"truncated"};
      field.bytes = message.substr(at, size);
      at += size;
    }
    const bool single = kind[0] >= 'a';
    if (single && seen[number])
      throw ValueError{std::string(schema.name) + " has field " + std::to_string(number) + " twice"};
    seen[number] = true;
    read(field);
  }
}

void check_tensor(std::string_view tensor) {
  uint64_t count = 1;
  bool elsewhere = false;
  const auto times = [&](uint64_t size) { count = size && count > UINT64_MAX / size ? UINT64_MAX : count * size; };
  each_field(tensor, tensor_schema, [&](const Entry &field) {
    if (field.number == 1 && field.is_number) times(field.value);
    if (field.number == 1 && !field.is_number)
      for (size_t at = 0; at < field.bytes.size();) times(varint(field.bytes, at));
    if (field.number == 13 || (field.number == 14 && field.value)) elsewhere = true;
  });
  if (elsewhere) throw ValueError{"its weights are in another file"};
  if (count > 2 * tensor.size()) throw ValueError{"a tensor is larger than its values"};  // four bits are the least
}

void check_node(std::string_view node, const std::string &where) {
  std::string type, domain;
  std::vector<std::string_view> attributes;
  each_field(node, node_schema, [&](const Entry &field) {
    if (field.number == 4) type = field.bytes;
    if (field.number == 7) domain = field.bytes;
    if (field.number == 5) attributes.push_back(field.bytes);
  });
  if (domain == "ai.onnx") domain.clear();
  const std::string_view known = domain.empty() ? standard : domain == "com.microsoft" ? microsoft : "";
  if (type.empty() || type.find(' ') != type.npos || known.find(" " + type + " ") == known.npos) {
    const std::string name = shown(domain.empty() ? type : domain + "." + type);
    fail(SPOTER_BACKEND_ERROR,
         where + ": has an operator " + name + ", which spoter-kit " + spoter_version() + " does not write",
         "pip install --upgrade spoter-kit, if a newer version wrote the bundle");
  }
  for (const auto attribute : attributes)
    each_field(attribute, attribute_schema, [](const Entry &field) {
      if (field.number == 5) check_tensor(field.bytes);
    });
}

}  // namespace

std::map<std::string, std::string> check_onnx(std::string_view content, const std::string &where) try {
  if (content.empty()) throw ValueError{"it is empty"};
  std::map<std::string, std::string> metadata;
  std::string_view graph;
  size_t graphs = 0;
  bool functions = false, training = false;
  each_field(content, model_schema, [&](const Entry &field) {
    if (field.number == 25) functions = true;
    if (field.number == 20) training = true;
    if (field.number == 7) ++graphs, graph = field.bytes;
    if (field.number == 14) {
      std::string name, value;
      each_field(field.bytes, entry_schema, [&](const Entry &entry) { (entry.number == 1 ? name : value) = entry.bytes; });
      metadata[name] = value;
    }
  });
  if (functions) throw ValueError{"it holds functions"};
  if (training) throw ValueError{"it holds training"};
  if (graphs != 1) throw ValueError{"it is no ONNX file"};
  each_field(graph, graph_schema, [&](const Entry &field) {
    if (field.number == 15) throw ValueError{"it holds sparse weights"};
  });
  each_field(graph, graph_schema, [&](const Entry &field) {
    if (field.number == 1) check_node(field.bytes, where);
    if (field.number == 5) check_tensor(field.bytes);
  });
  return metadata;
} catch (const ValueError &error) {
  bad_bundle(where + ": refused: " + error.message, "take a bundle that spoter-kit exported");
}

}  // namespace spoter::detail
