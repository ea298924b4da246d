// Write JSON values: for a manifest's seal, and in messages.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "json.hpp"

namespace spoter::detail {
namespace {

constexpr size_t most_shown = 60;

// A float as Python's repr writes it: the fewest digits that give the same number again.
std::string written(double number) {
  char buffer[40];
  std::string read;
  for (int precision = 0; precision < 17; ++precision) {
    const int size = std::snprintf(buffer, sizeof buffer, "%.*e", precision, number);
    read.assign(buffer, static_cast<size_t>(size));
    // The decimal sign is the application's locale's.
    const size_t first = read[0] == '-' ? 2 : 1, exponent = read.rfind('e');
    if (precision) read = read.substr(0, first) + "." + read.substr(exponent - static_cast<size_t>(precision));
    if (number_from(read) == number) break;
  }
  const size_t e = read.rfind('e');
  const long exponent = std::strtol(read.c_str() + e + 1, nullptr, 10);
  std::string sign = read[0] == '-' ? "-" : "", digits;
  for (const char letter : read.substr(0, e))
    if (letter >= '0' && letter <= '9') digits += letter;
  if (exponent < -4 || exponent >= 16) {
    std::string made = sign + digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "");
    const std::string size = std::to_string(std::labs(exponent));
    return made + (exponent < 0 ? "e-" : "e+") + (size.size() < 2 ? "0" : "") + size;
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent) - 1, '0') + digits;
  const size_t before = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= before) return sign + digits + std::string(before - digits.size(), '0') + ".0";
  return sign + digits.substr(0, before) + "." + digits.substr(before);
}

void append_quoted(std::string &made, std::string_view text) {
  made += '"';
  for (const char letter : text) {
    static constexpr char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    if (const char *known = letter ? std::strchr(from, letter) : nullptr) {
      made += '\\';
      made += to[known - from];
    } else if (static_cast<unsigned char>(letter) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(letter));
      made += escape;
    } else {
      made += letter;
    }
  }
  made += '"';
}

std::string scalar(const Value &value) {
  switch (value.kind) {
    case Kind::boolean:
      return value.truth ? "true" : "false";
    case Kind::integer:
      return value.text;
    case Kind::number:
      return written(value.number);
    default:
      return "null";
  }
}

void append(std::string &made, const Value &value, std::string_view comma, std::string_view colon, bool sorted) {
  if (value.kind == Kind::text) return append_quoted(made, value.text);
  if (value.kind == Kind::list) {
    made += '[';
    for (const Value &item : value.items) {
      if (&item != value.items.data()) made += comma;
      append(made, item, comma, colon, sorted);
    }
    made += ']';
  } else if (value.kind == Kind::table) {
    std::vector<const std::pair<std::string, Value> *> members;
    for (const auto &member : value.members) members.push_back(&member);
    if (sorted) std::sort(members.begin(), members.end(), [](auto *a, auto *b) { return a->first < b->first; });
    made += '{';
    for (const auto *member : members) {
      if (member != members.front()) made += comma;
      append_quoted(made, member->first);
      made += colon;
      append(made, member->second, comma, colon, sorted);
    }
    made += '}';
  } else {
    made += scalar(value);
  }
}

std::string cut(std::string text) {
  if (letters(text) <= most_shown) return text;
  size_t end = 0;
  for (size_t i = 0; i < most_shown; ++i) end += std::max<size_t>(1, sequence(std::string_view(text).substr(end)));
  return text.substr(0, end) + "…";
}

// A text as Python's repr writes it.
std::string quoted(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string made(1, quote);
  for (size_t i = 0; i < text.size();) {
    const size_t size = sequence(text.substr(i));
    const auto letter = static_cast<unsigned char>(text[i]);
    char escape[8];
    if (size == 0) {  // half of a pair of surrogates: three bytes
      const auto next = [&](size_t k) {
        return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) & 0x3FU : 0U;
      };
      std::snprintf(escape, sizeof escape, "\\u%04x", (letter & 0xFU) << 12 | next(1) << 6 | next(2));
      made += escape;
    } else if (size == 1 && (letter < 0x20 || letter == 0x7F) && !std::strchr("\t\n\r", letter)) {
      std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(letter));
      made += escape;
    } else if (letter == '\0') {
      made += "\\x00";
    } else if (letter == '\t' || letter == '\n' || letter == '\r') {
      made += letter == '\t' ? "\\t" : letter == '\n' ? "\\n" : "\\r";
    } else {
      if (text[i] == '\\' || text[i] == quote) made += '\\';
      made += text.substr(i, size);
    }
    i += size == 0 ? std::min<size_t>(3, text.size() - i) : size;
  }
  return made + quote;
}
}  // namespace

std::string canonical(const Value &value, std::string_view without) {
  std::string made;
  if (without.empty()) {
    append(made, value, ",", ":", true);
    return made;
  }
  Value rest = value;
  rest.members.erase(std::remove_if(rest.members.begin(), rest.members.end(),
                                    [&](const auto &member) { return member.first == without; }),
                     rest.members.end());
  append(made, rest, ",", ":", true);
  return made;
}

std::string number_in_words(double number) { return written(number); }

std::string shown(std::string_view text) { return cut(quoted(text)); }

std::string shown(const Value &value) {
  if (value.kind == Kind::text) return shown(value.text);
  if (value.kind == Kind::null) return "None";
  if (value.kind == Kind::boolean) return value.truth ? "True" : "False";
  std::string made;
  append(made, value, ", ", ": ", false);
  return cut(std::move(made));
}

bool equal(const Value &a, const Value &b) {
  const auto counts = [](const Value &value) {
    return value.kind == Kind::boolean || value.kind == Kind::integer || value.kind == Kind::number;
  };
  const auto number = [](const Value &value) {
    return value.kind == Kind::boolean ? double(value.truth) : value.number;
  };
  if (counts(a) && counts(b)) return number(a) == number(b);
  if (a.kind != b.kind) return false;
  if (a.kind == Kind::table) {
    if (a.members.size() != b.members.size()) return false;
    return std::all_of(a.members.begin(), a.members.end(), [&](const auto &member) {
      const Value *other = b.find(member.first);
      return other && equal(member.second, *other);
    });
  }
  return a.text == b.text && std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), equal);
}
}  // namespace spoter::detail
