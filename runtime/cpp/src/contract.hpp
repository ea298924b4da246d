// The graph contract: the inputs, outputs and labels of every file of a bundle.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine.hpp"
#include "json.hpp"

namespace spoter::detail {

struct Label {
  std::string name, gloss, bengali, romanised;
  bool operator==(const Label &other) const;
};

struct Contract {
  std::vector<Label> labels;
  int64_t max_frames = 0, max_batch = 0;
  bool operator==(const Contract &other) const;
};

Contract contract_from_json(const Value &value, const std::string &where);  // throws Error

// Checks a graph's inputs and outputs: names, types and shapes, whatever a varying axis is called. Throws Error.
void check_tensors(const std::vector<Tensor> &tensors, const Contract &contract, const std::string &where);

}  // namespace spoter::detail
