// A filter over time that takes the jitter out of landmarks, as MediaPipe's has it.
#pragma once

#include <vector>

namespace spoter::detail {

// The One Euro filter: smooths slow points, delays fast ones little (Casiez, Roussel and Vogel 2012). A low-pass filter
// whose cutoff frequency grows with the speed.
class OneEuroFilter {
 public:
  OneEuroFilter(double min_cutoff, double beta) : min_cutoff_(min_cutoff), beta_(beta) {}

  void reset() { raw_.clear(); }

  // The values of this frame, smoothed; `elapsed_s` since the last frame; `scale`: the size of the object, so that its
  // speed is in sizes a second.
  const std::vector<double> &operator()(std::vector<double> values, double elapsed_s, double scale);

 private:
  double min_cutoff_, beta_;
  std::vector<double> raw_, speed_, smooth_;
};

}  // namespace spoter::detail
