#include "python.hpp"

#include <locale.h>
#include <cstdio>

#include "json.hpp"

namespace spoter::detail {
namespace {

std::string printed(const char *format, int digits, double value) {
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);  // the application may have a decimal comma
  const locale_t before = uselocale(c_locale);
  char buffer[352];
  const int size = std::snprintf(buffer, sizeof buffer, format, digits, value);
  uselocale(before);
  return {buffer, static_cast<size_t>(size)};
}

}  // namespace

std::string fixed(double value, int digits) { return printed("%.*f", digits, value); }

std::string general(double value, int most) { return printed("%.*g", most, value); }

double rounded(double value, int digits) { return number_from(fixed(value, digits)); }

}  // namespace spoter::detail
