// Numbers in messages and events, as Python writes them; whatever the application's locale is.
#pragma once

#include <string>

namespace spoter::detail {

std::string fixed(double value, int digits);  // f"{value:.{digits}f}"
std::string general(double value, int most = 6);  // f"{value:.{most}g}"
double rounded(double value, int digits);     // round(value, digits)

}  // namespace spoter::detail
