// Read a bundle: its manifest, the hashes of its files, the goldens.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "contract.hpp"

namespace spoter::detail {

// A file of a bundle that an engine runs.
struct Artefact {
  std::string path, kind, precision, sha256;
  double size_bytes = 0;
  double max_logit_diff = 0;  // the largest difference from PyTorch's logits that is allowed
  std::map<std::string, std::string> needs;
};

// When a model says that a clip shows no sign.
struct Abstention {
  double temperature = 0, min_probability = 0, min_margin = 0, min_hand_share = 0, target = 0, min_likeness = -1;
  std::vector<std::string> background;
  std::vector<std::vector<double>> typical_logits;  // of each label; empty: not taken
};

// Stored inputs with PyTorch's logits, one clip after the other without padding.
struct Golden {
  std::vector<float> poses;  // frames x 108
  std::vector<float> logits;
};

struct Bundle {
  std::string folder, name;
  Contract contract;
  std::vector<Artefact> artefacts;
  std::vector<std::pair<std::string, std::string>> files;  // every other file and its sha256
  std::optional<Abstention> abstention;

  const Artefact *find(const std::string &kind, const std::string &precision) const;
  const Artefact &onnx(const std::string &precision) const;
  std::map<std::string, std::string> hashes() const;   // of every file that is listed
  uint64_t most_bytes(const std::string &path) const;  // that a file may have
  std::string read(const std::string &path) const;     // after checking its hash
  size_t check_files() const;                          // returns their number
  std::vector<Golden> goldens() const;
};

// Throws Error unless a file's hash is the expected one.
void check_digest(const std::string &file, const std::string &digest, const std::string &expected,
                  const std::string &fix);

Bundle read_bundle(const std::string &folder);

}  // namespace spoter::detail
