// What an ONNX file says of itself, and a refusal of one that spoter-kit does not write: ONNX Runtime would run
// whatever is in it.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace spoter::detail {

// Returns the file's metadata. `where` names the file; throws Error.
std::map<std::string, std::string> check_onnx(std::string_view content, const std::string &where);

}  // namespace spoter::detail
