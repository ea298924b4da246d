#include "contract.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

#include "error.hpp"

namespace spoter::detail {
namespace {

constexpr int64_t most = 100'000;  // frames or clips that any contract may claim

void check(const Contract &contract) {
  for (const auto &[name, value] : {std::pair("frames", contract.max_frames), std::pair("batch", contract.max_batch)})
    if (value < 1 || value > most)
      throw ValueError{std::string("contract.ranges.") + name + ": up to " + std::to_string(value) + ", expected 1.." +
                       std::to_string(most)};
  std::set<std::string> names;
  for (const Label &label : contract.labels) names.insert(label.name);
  if (names.empty() || names.count("") || names.size() < contract.labels.size())
    throw ValueError{"contract.labels: expected at least one, each with a name of its own"};
}

Label label_from(const Value &value, const std::string &where) {
  Label label;
  const auto into = [](std::string &text) {
    return [&text](const Value &given, const std::string &at) { text = as_text(given, at); };
  };
  read_table(value, where,
             {{"name", true, into(label.name)},
              {"gloss", false, into(label.gloss)},
              {"bengali", false, into(label.bengali)},
              {"romanised", false, into(label.romanised)}});
  return label;
}

// The other tables of a contract follow from its ranges and the number of its labels.
void check_claims(const Contract &contract, const Value &value) {
  const std::string classes = std::to_string(contract.labels.size());
  const Value claims = parse_json(R"({"inputs": {"poses": {"dtype": "float32", "shape": ["batch", "frames", 108]}, )"
                                  R"("lengths": {"dtype": "int32", "shape": ["batch"]}}, )"
                                  R"("outputs": {"logits": {"dtype": "float32", "shape": ["batch", )" +
                                  classes + R"(]}}, "ranges": {"batch": [1, )" + std::to_string(contract.max_batch) +
                                  R"(], "frames": [1, )" + std::to_string(contract.max_frames) +
                                  R"--(]}, "missing": "NaN or (0, 0)"})--");
  static const Value nothing;
  for (const auto &[name, claim] : claims.members) {
    const Value *stated = value.find(name);
    if (!stated || !equal(*stated, claim))
      throw ValueError{"contract." + name + ": " + shown(stated ? *stated : nothing) + ", expected " + shown(claim)};
  }
}

// The axes of the contract's tensors that vary.
const std::map<std::string, std::vector<const char *>> varying = {
    {"poses", {"batch", "frames"}}, {"lengths", {"batch"}}, {"logits", {"batch"}}};

// An input or an output in words, as in Python.
std::string in_words(const Tensor &tensor) {
  static const char *const types[] = {"no tensor", "float32", "uint8",   "int8",    "uint16",  "int16",
                                      "int32",     "int64",   "string",  "bool",    "float16", "float64",
                                      "uint32",    "uint64",  "complex64", "complex128", "bfloat16"};
  const auto named = varying.find(tensor.name);
  std::string axes;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const bool has_name = named != varying.end() && i < named->second.size();
    const std::string axis = has_name ? named->second[i] : "?";
    axes += (i ? ", " : "") + (tensor.shape[i] < 0 ? axis : std::to_string(tensor.shape[i]));
  }
  const auto type = static_cast<size_t>(tensor.type);
  return std::string(tensor.is_input ? "input " : "output ") + (type < std::size(types) ? types[type] : "another type") +
         " (" + axes + ")";
}

}  // namespace

bool Label::operator==(const Label &other) const {
  return std::tie(name, gloss, bengali, romanised) == std::tie(other.name, other.gloss, other.bengali, other.romanised);
}

bool Contract::operator==(const Contract &other) const {
  return labels == other.labels && max_frames == other.max_frames && max_batch == other.max_batch;
}

Contract contract_from_json(const Value &value, const std::string &where) try {
  static const Value nothing;
  const auto get = [](const Value &table, const char *name) -> const Value & {
    const Value *found = table.find(name);
    return found ? *found : nothing;
  };
  Contract contract;
  std::vector<std::pair<std::string, int64_t>> most_of;
  for (const auto &[name, range] : as_table(get(as_table(value, "contract"), "ranges"), "contract.ranges").members) {
    const std::string at = "contract.ranges." + name;
    if (as_list(range, at).size() != 2)
      throw ValueError{at + ": " + std::to_string(range.items.size()) + " values, expected 2"};
    as_whole(range.items[0], at + "[0]");
    most_of.emplace_back(name, as_whole(range.items[1], at + "[1]"));
  }
  const std::vector<Value> &labels = as_list(get(value, "labels"), "contract.labels");
  for (size_t i = 0; i < labels.size(); ++i)
    contract.labels.push_back(label_from(labels[i], "contract.labels[" + std::to_string(i) + "]"));
  for (auto [name, limit] : {std::pair("frames", &contract.max_frames), std::pair("batch", &contract.max_batch)}) {
    const auto found =
        std::find_if(most_of.begin(), most_of.end(), [name = name](auto &one) { return one.first == name; });
    if (found == most_of.end()) bad_bundle(where + ": contract.ranges has no '" + name + "'");
    *limit = found->second;
  }
  check(contract);
  check_claims(contract, value);
  return contract;
} catch (const ValueError &error) {
  bad_bundle(where + ": " + error.message);
}

void check_tensors(const std::vector<Tensor> &tensors, const Contract &contract, const std::string &where) {
  std::vector<std::pair<std::string, std::string>> expected = {
      {"poses", "input float32 (batch, frames, 108)"},
      {"lengths", "input int32 (batch)"},
      {"logits", "output float32 (batch, " + std::to_string(contract.labels.size()) + ")"}};
  std::map<std::string, std::string> found;
  for (const Tensor &tensor : tensors) {
    found[tensor.name] = in_words(tensor);
    if (!varying.count(tensor.name)) expected.emplace_back(tensor.name, "none");
  }
  for (const auto &[name, wanted] : expected)
    if (const std::string got = found.count(name) ? found[name] : "none"; got != wanted)
      fail(SPOTER_BACKEND_ERROR,
           where + ": the model is not what its contract says: " + name + ": expected " + wanted + ", got " + got,
           "export the bundle again");
}

}  // namespace spoter::detail
