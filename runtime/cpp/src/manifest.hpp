// The fields of bundle.json.
#pragma once

#include <array>

#include "bundle.hpp"

namespace spoter::detail {

struct Manifest {
  Bundle bundle;                    // without folder and contract
  const Value *contract = nullptr;  // in the value that was read
};

// Both throw ValueError: no sha256 in hexadecimal digits; no text that may be a part of a file's name.
void check_sha256(const std::string &text, const std::string &where);
void check_file_name(const std::string &text, const std::string &where);

Manifest manifest_from_json(const Value &value);  // throws ValueError

}  // namespace spoter::detail
