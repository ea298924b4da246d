// The error that is thrown inside the library; spoter.cpp turns it into a status at the door.
#pragma once

#include <string>

#include "spoter/spoter.h"

namespace spoter::detail {

struct Error {
  spoter_status status;
  std::string message;
  std::string fix;
};

// A value that is wrong; its reader knows of which file, and makes an Error of it.
struct ValueError {
  std::string message;
};

[[noreturn]] inline void fail(spoter_status status, std::string message, std::string fix = {}) {
  throw Error{status, std::move(message), std::move(fix)};
}

[[noreturn]] inline void bad_bundle(std::string message, std::string fix = {}) {
  fail(SPOTER_BUNDLE_ERROR, std::move(message), std::move(fix));
}

// Message and fix as one text.
inline std::string in_words(const Error &error) {
  if (error.fix.empty()) return error.message;
  const char last = error.message.empty() ? ' ' : error.message.back();
  return error.message + (last == '\n' ? "" : last == '.' || last == '?' ? " " : ". ") + "Fix: " + error.fix;
}

inline constexpr const char *copy_again = "copy the whole bundle again";

}  // namespace spoter::detail
