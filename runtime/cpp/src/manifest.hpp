// The fields of bundle.json.
#pragma once

#include <array>

#include "bundle.hpp"

namespace spoter::detail {

struct Manifest {
  Bundle bundle;                    // without folder and contract
  const Value *contract = nullptr;  // in the value that was read
};

Manifest manifest_from_json(const Value &value);  // throws ValueError

}  // namespace spoter::detail
