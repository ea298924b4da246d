#include "smoothing.hpp"

#include <cmath>

namespace spoter::detail {
namespace {

constexpr double pi = 3.14159265358979323846;

// How much of a new value a low-pass filter of this cutoff frequency takes.
double weight(double cutoff, double elapsed_s) { return 1 / (1 + 1 / (2 * pi * cutoff * elapsed_s)); }

}  // namespace

const std::vector<double> &OneEuroFilter::operator()(std::vector<double> values, double elapsed_s, double scale) {
  if (raw_.empty()) {
    speed_.assign(values.size(), 0);
    smooth_ = values;
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      const double speed = (values[i] - raw_[i]) / (scale * elapsed_s);
      speed_[i] += weight(1, elapsed_s) * (speed - speed_[i]);
      const double cutoff = min_cutoff_ + beta_ * std::fabs(speed_[i]);
      smooth_[i] += weight(cutoff, elapsed_s) * (values[i] - smooth_[i]);
    }
  }
  raw_ = std::move(values);
  return smooth_;
}

}  // namespace spoter::detail
