#include "contract.hpp"

#include <algorithm>
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

}  // namespace spoter::detail
