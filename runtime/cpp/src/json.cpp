#include "json.hpp"

#include <locale.h>
#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "error.hpp"

namespace spoter::detail {
namespace {

constexpr size_t most_depth = 63;  // with the innermost values; ours have at most 8
constexpr size_t most_digits = 19;

[[noreturn]] void wrong(std::string message) { throw ValueError{std::move(message)}; }

void append_code_point(std::string &text, unsigned code) {  // half of a surrogate pair too, as three bytes
  const auto add = [&](unsigned byte) { text += static_cast<char>(byte); };
  if (code < 0x80) return add(code);
  if (code < 0x800) return add(0xC0 | code >> 6), add(0x80 | (code & 0x3F));
  if (code < 0x10000) return add(0xE0 | code >> 12), add(0x80 | (code >> 6 & 0x3F)), add(0x80 | (code & 0x3F));
  add(0xF0 | code >> 18), add(0x80 | (code >> 12 & 0x3F)), add(0x80 | (code >> 6 & 0x3F)), add(0x80 | (code & 0x3F));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value whole() {
    Value value = read(1);
    skip();
    if (at_ < text_.size()) error("Extra data", at_);
    return value;
  }

 private:
  [[noreturn]] void error(const std::string &what, size_t at) const {
    const std::string_view before = text_.substr(0, at);
    const size_t line = static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1;
    const size_t begin = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    wrong(what + ": line " + std::to_string(line) + " column " + std::to_string(letters(before.substr(begin)) + 1) +
          " (char " + std::to_string(letters(before)) + ")");
  }

  void skip() {
    while (at_ < text_.size() && std::strchr(" \t\n\r", text_[at_]) && text_[at_]) ++at_;
  }

  bool take(char expected) {
    if (at_ < text_.size() && text_[at_] == expected) return ++at_, true;
    return false;
  }

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }

  Value read(size_t depth) {
    if (depth > most_depth) wrong("more than 64 levels");
    skip();
    Value value;
    if (take('{')) return table(depth);
    if (take('[')) return list(depth);
    if (take('"')) {
      value.kind = Kind::text;
      value.text = text();
    } else if (word("true") || word("false")) {
      value.kind = Kind::boolean;
      value.truth = text_[at_ - 2] == 'u';
    } else if (!word("null")) {
      return number();
    }
    return value;
  }

  Value number() {
    for (const char *constant : {"NaN", "Infinity", "-Infinity"})
      if (word(constant)) wrong(std::string(constant) + " is no JSON");
    const size_t begin = at_;
    const auto digits = [&] {
      const size_t first = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
      return at_ - first;
    };
    take('-');
    const size_t count = take('0') ? 1 : digits();
    if (count == 0) error("Expecting value", begin);
    bool whole = true;
    for (const bool fraction : {true, false}) {
      const size_t before = at_;
      if (fraction ? !take('.') : !(take('e') || take('E'))) continue;
      if (!fraction && !take('-')) take('+');
      if (digits()) whole = false;
      else at_ = before;
    }
    Value value;
    value.kind = whole ? Kind::integer : Kind::number;
    std::string read(text_.substr(begin, at_ - begin));
    if (whole && count > most_digits) wrong("a number of " + std::to_string(count) + " digits");
    value.number = number_from(read);
    if (!std::isfinite(value.number)) wrong(shown(read) + " is no finite number");
    if (whole) value.text = read == "-0" ? "0" : std::move(read);
    return value;
  }

  unsigned hex4(size_t escape) {
    unsigned code = 0;
    for (size_t i = 0; i < 4; ++i) {
      const char digit = at_ < text_.size() ? text_[at_] : '\0';
      const bool is_digit = digit >= '0' && digit <= '9';
      const char lower = static_cast<char>(digit | 0x20);
      if (!is_digit && !(lower >= 'a' && lower <= 'f')) error("Invalid \\uXXXX escape", escape);
      code = code << 4 | static_cast<unsigned>(is_digit ? digit - '0' : lower - 'a' + 10);
      ++at_;
    }
    return code;
  }

  std::string text() {
    const size_t begin = at_ - 1;
    std::string made;
    while (at_ < text_.size()) {
      const char letter = text_[at_++];
      if (letter == '"') return made;
      if (static_cast<unsigned char>(letter) < 0x20) error("Invalid control character at", at_ - 1);
      if (letter != '\\') {
        made += letter;
        continue;
      }
      if (at_ >= text_.size()) break;
      const char escape = text_[at_++];
      static constexpr char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
      if (const char *known = escape ? std::strchr(from, escape) : nullptr) {
        made += to[known - from];
      } else if (escape == 'u') {
        const size_t place = at_ - 1;
        unsigned code = hex4(place);
        if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
          const size_t back = at_;
          at_ += 2;
          const unsigned low = hex4(at_ - 1);
          if (low >= 0xDC00 && low < 0xE000) code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          else at_ = back;
        }
        append_code_point(made, code);
      } else {
        error("Invalid \\escape", at_ - 2);
      }
    }
    error("Unterminated string starting at", begin);
  }

  Value list(size_t depth) {
    Value value;
    value.kind = Kind::list;
    skip();
    if (take(']')) return value;
    while (true) {
      value.items.push_back(read(depth + 1));
      skip();
      if (take(']')) return value;
      if (!take(',')) error("Expecting ',' delimiter", at_);
    }
  }

  Value table(size_t depth) {
    Value value;
    value.kind = Kind::table;
    skip();
    if (take('}')) return value;
    while (true) {
      skip();
      if (!take('"')) error("Expecting property name enclosed in double quotes", at_);
      std::string name = text();
      skip();
      if (!take(':')) error("Expecting ':' delimiter", at_);
      value.members.emplace_back(std::move(name), read(depth + 1));
      skip();
      if (take('}')) break;
      if (!take(',')) error("Expecting ',' delimiter", at_);
    }
    check_names(value);
    return value;
  }

  static void check_names(const Value &value) {
    std::vector<std::string_view> names;
    for (const auto &member : value.members) names.push_back(member.first);
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) == names.end()) return;
    for (const auto &member : value.members) {
      const auto range = std::equal_range(names.begin(), names.end(), std::string_view(member.first));
      if (range.second - range.first > 1) wrong(shown(member.first) + " is there twice");
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

std::string at(const std::string &where, const std::string &name) { return where.empty() ? name : where + "." + name; }

void expect(const Value &value, Kind kind, const char *words, const std::string &where) {
  if (value.kind != kind) wrong((where.empty() ? "the file" : where) + ": " + shown(value) + ", expected " + words);
}

bool is_unicode(std::string_view text) {
  for (size_t i = 0, size = 0; i < text.size(); i += size)
    if (text[i] == '\0' || !(size = sequence(text.substr(i)))) return false;
  return true;
}

void check_text(const std::string &text, const std::string &where) {
  if (!is_unicode(text)) wrong(where + ": " + shown(text) + ", expected a text without zero bytes and half letters");
}

}  // namespace

size_t sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0), second = byte(1);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first < 0xE0) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first < 0xF0) {
    const bool fits = !(first == 0xE0 && second < 0xA0) && !(first == 0xED && second >= 0xA0);
    return fits && follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first < 0xF5) {
    const bool fits = !(first == 0xF0 && second < 0x90) && !(first == 0xF4 && second >= 0x90);
    return fits && follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

double number_from(const std::string &digits) {
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);  // the application may have a decimal comma
  return strtod_l(digits.c_str(), nullptr, c_locale);
}

const Value *Value::find(std::string_view name) const {
  for (const auto &member : members)
    if (member.first == name) return &member.second;
  return nullptr;
}

size_t letters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

Value parse_json(std::string_view text) {
  for (size_t i = 0, size = 0; i < text.size(); i += size) {
    size = sequence(text.substr(i));
    if (size == 0) {
      char byte[8];
      std::snprintf(byte, sizeof byte, "0x%02x", static_cast<unsigned>(static_cast<unsigned char>(text[i])));
      wrong("'utf-8' codec can't decode byte " + std::string(byte) + " in position " + std::to_string(i) +
            ": invalid start byte");
    }
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    wrong("Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)");
  return Parser(text).whole();
}

const std::string &as_text(const Value &value, const std::string &where) {
  expect(value, Kind::text, "a text", where);
  check_text(value.text, where);
  return value.text;
}

bool as_truth(const Value &value, const std::string &where) {
  expect(value, Kind::boolean, "true or false", where);
  return value.truth;
}

int64_t as_whole(const Value &value, const std::string &where) {
  expect(value, Kind::integer, "a whole number", where);
  return std::strtoll(value.text.c_str(), nullptr, 10);
}

double as_number(const Value &value, const std::string &where) {
  if (value.kind != Kind::integer) expect(value, Kind::number, "a number", where);
  return value.number;
}

const std::vector<Value> &as_list(const Value &value, const std::string &where) {
  expect(value, Kind::list, "a list", where);
  return value.items;
}

const Value &as_table(const Value &value, const std::string &where) {
  expect(value, Kind::table, "a table", where);
  for (const auto &member : value.members) check_text(member.first, where);
  return value;
}

void read_table(const Value &value, const std::string &where, std::initializer_list<Field> fields) {
  expect(value, Kind::table, "a table", where);
  const auto known = [&](const std::string &name) {
    return std::find_if(fields.begin(), fields.end(), [&](const Field &field) { return name == field.name; });
  };
  const std::string *unknown = nullptr;
  for (const auto &member : value.members)
    if (known(member.first) == fields.end() && (!unknown || member.first < *unknown)) unknown = &member.first;
  if (unknown) {
    std::string names;
    for (const Field &field : fields) names += (names.empty() ? "" : ", ") + std::string(field.name);
    wrong(at(where, *unknown) + " is unknown, expected " + names);
  }
  for (const Field &field : fields)
    if (field.needed && !value.find(field.name)) wrong(at(where, field.name) + " is missing");
  for (const auto &member : value.members) known(member.first)->read(member.second, at(where, member.first));
}

}  // namespace spoter::detail
