// Strict JSON: what is accepted here is the same in every language. The reader of bundle.json in C++.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spoter::detail {

enum class Kind { null, boolean, integer, number, text, list, table };

struct Value {
  Kind kind = Kind::null;
  bool truth = false;
  double number = 0;  // of an integer too
  std::string text;   // of a text; of an integer its digits
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;  // in the order of the file

  const Value *find(std::string_view name) const;
};

// Throws ValueError for text that is no UTF-8 or no JSON, a name twice in an object, a number that is not finite or has
// more than 19 digits, or too many levels.
Value parse_json(std::string_view text);

// The text whose sha256 seals a manifest: sorted names, no spaces, numbers as Python writes them.
std::string canonical(const Value &value, std::string_view without = {});

std::string shown(const Value &value);          // for a message: cut, and in one line
std::string shown(std::string_view text);       // the same for a text
std::string number_in_words(double number);     // as Python writes it
bool equal(const Value &a, const Value &b);     // as Python compares: 1 equals 1.0 and true
double number_from(const std::string &digits);  // as strtod in the C locale
size_t sequence(std::string_view text);         // length of the UTF-8 sequence at the beginning; 0: there is none
size_t letters(std::string_view text);          // code points

// Readers of values with a type; `where` is the path in the file, which a ValueError names.
const std::string &as_text(const Value &value, const std::string &where);
bool as_truth(const Value &value, const std::string &where);
int64_t as_whole(const Value &value, const std::string &where);  // beyond 64 bits: the nearest that fits
double as_number(const Value &value, const std::string &where);
const std::vector<Value> &as_list(const Value &value, const std::string &where);
const Value &as_table(const Value &value, const std::string &where);  // the names in it are texts too

struct Field {
  const char *name;
  bool needed;
  std::function<void(const Value &value, const std::string &at)> read;
};

// Reads a table of exactly these fields.
void read_table(const Value &value, const std::string &where, std::initializer_list<Field> fields);

}  // namespace spoter::detail
