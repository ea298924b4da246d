#include "clip.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.hpp"
#include "json.hpp"
#include "python.hpp"

namespace spoter::detail {
namespace {

constexpr float coordinate_limit = 1e4F;  // pixels are a few thousand; far beyond, float32 sums lose digits

bool any_detected(const float *points, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (detected(points + 2 * i)) return true;
  return false;
}

[[noreturn]] void bad_coordinate(const std::string &where, float value, const std::string &index) {
  fail(SPOTER_INPUT_ERROR,
       where + ": value " + (std::isinf(value) ? value > 0 ? "inf" : "-inf" : number_in_words(double(value))) +
           " at index (" + index + "); coordinates are finite and at most 10000",
       "use NaN where a landmark was not detected");
}

const float *first_bad(const float *values, size_t count) {
  float most = 0;  // fmax ignores NaN
  for (size_t i = 0; i < count; ++i) most = std::fmax(most, std::fabs(values[i]));
  if (most <= coordinate_limit) return nullptr;
  return std::find_if(values, values + count, [](float value) { return std::fabs(value) > coordinate_limit; });
}

std::string frames_in_words(const std::string &where, size_t frames, size_t most) {
  return where + ": " + std::to_string(frames) + " frames, the model takes 1.." + std::to_string(most);
}

// With as many digits as tell the two apart: "0.31 below 0.55".
std::string below(double value, double least) {
  int digits = 2;
  while (digits < 6 && fixed(value, digits) == fixed(least, digits)) ++digits;
  return fixed(value, digits) + " below " + fixed(least, digits);
}

// The correlation of logits with typical ones; 1 where either are all equal.
double likeness(const float *logits, const std::vector<double> &typical) {
  const size_t count = typical.size();
  const double own_mean = std::accumulate(logits, logits + count, 0.0) / double(count);
  const double row_mean = std::accumulate(typical.begin(), typical.end(), 0.0) / double(count);
  double own = 0, row = 0, both = 0;
  for (size_t i = 0; i < count; ++i) {
    const double a = double(logits[i]) - own_mean, b = typical[i] - row_mean;
    own += a * a, row += b * b, both += a * b;
  }
  const double size = std::sqrt(own * row);
  return size > 0 ? both / size : 1.0;
}

}  // namespace

double hand_share(const std::vector<float> &clip) {
  constexpr size_t first_hand = 12;
  const size_t frames = clip.size() / SPOTER_FEATURES;
  size_t shown = 0;
  for (size_t t = 0; t < frames; ++t)
    shown += any_detected(clip.data() + t * SPOTER_FEATURES + 2 * first_hand, SPOTER_LANDMARKS - first_hand);
  return double(shown) / double(frames);
}

bool detected(const float *point) {
  return !std::isnan(point[0]) && !std::isnan(point[1]) && (point[0] != 0 || point[1] != 0);
}

std::vector<float> checked_clip(const spoter_clip &clip, size_t max_frames, bool resample, const std::string &where) {
  if (clip.frames == 0) fail(SPOTER_INPUT_ERROR, frames_in_words(where, 0, max_frames));
  if (!clip.landmarks) fail(SPOTER_INPUT_ERROR, where + ": landmarks is NULL", "frames x 54 x 2 floats");
  if (clip.frames > max_frames && !resample)
    fail(SPOTER_INPUT_ERROR, frames_in_words(where, clip.frames, max_frames),
         "cut the clip, or set spoter_options.resample");
  const float *values = clip.landmarks;
  const size_t count = clip.frames * SPOTER_FEATURES;
  if (const float *bad = first_bad(values, count)) {
    const auto place = static_cast<size_t>(bad - values);
    bad_coordinate(where, *bad,
                   std::to_string(place / SPOTER_FEATURES) + ", " + std::to_string(place % SPOTER_FEATURES / 2) + ", " +
                       std::to_string(place % 2));
  }
  if (!any_detected(values, clip.frames * SPOTER_LANDMARKS))
    fail(SPOTER_INPUT_ERROR, where + ": no landmark is detected in any of its " + std::to_string(clip.frames) +
                                 " frames, so there is nothing to recognise");
  if (clip.frames <= max_frames) return {values, values + count};
  // The nearest frames, not between them: a detected and a missing landmark have no middle.
  std::vector<float> made(max_frames * SPOTER_FEATURES);
  for (size_t t = 0; t < max_frames; ++t) {
    const auto source = static_cast<size_t>((double(t) + 0.5) * double(clip.frames) / double(max_frames));
    std::copy_n(values + std::min(source, clip.frames - 1) * SPOTER_FEATURES, SPOTER_FEATURES,
                &made[t * SPOTER_FEATURES]);
  }
  return made;
}

void check_batch(const float *poses, const int32_t *lengths, size_t batch, size_t frames) {
  for (size_t i = 0; i < batch; ++i) {
    const float *clip = poses + i * frames * SPOTER_FEATURES;
    const size_t count = (lengths ? static_cast<size_t>(lengths[i]) : frames) * SPOTER_FEATURES;
    if (const float *bad = first_bad(clip, count)) {
      const auto place = static_cast<size_t>(bad - clip);
      bad_coordinate("poses", *bad,
                     std::to_string(i) + ", " + std::to_string(place / SPOTER_FEATURES) + ", " +
                         std::to_string(place % SPOTER_FEATURES));
    }
  }
}

void check_frame(const float *landmarks, const std::string &where) {
  if (const float *bad = first_bad(landmarks, SPOTER_FEATURES)) {
    const auto place = static_cast<size_t>(bad - landmarks);
    bad_coordinate(where, *bad, std::to_string(place / 2) + ", " + std::to_string(place % 2));
  }
}

std::vector<double> softmax(const float *logits, size_t count, double temperature) {
  const double most = *std::max_element(logits, logits + count);
  std::vector<double> shares(count);
  double total = 0;
  for (size_t i = 0; i < count; ++i) total += shares[i] = std::exp((double(logits[i]) - most) / temperature);
  for (double &share : shares) share /= total;
  return shares;
}

Decision decide(const float *logits, const std::vector<Label> &labels, const std::vector<float> &clip,
                const std::optional<Abstention> &rule) {
  if (!rule) return {std::nan(""), -1, "the bundle holds no calibration"};
  std::vector<double> shares = softmax(logits, labels.size(), rule->temperature);
  shares.push_back(0);
  std::partial_sort(shares.begin(), shares.begin() + 2, shares.end(), std::greater<>());
  const double best = shares[0], second = shares[1];
  const auto place = static_cast<size_t>(std::max_element(logits, logits + labels.size()) - logits);
  const std::string &name = labels[place].name;
  if (std::find(rule->background.begin(), rule->background.end(), name) != rule->background.end())
    return {best, 0, name + " stands for no sign"};
  const double shown = hand_share(clip);
  if (shown < rule->min_hand_share)
    return {best, 0,
            "no hand in " + std::to_string(std::lround(std::floor(100 * (1 - shown) + 1e-9))) + " % of the frames"};
  if (best < rule->min_probability) return {best, 0, "score " + below(best, rule->min_probability)};
  if (best - second < rule->min_margin) return {best, 0, "margin " + below(best - second, rule->min_margin)};
  const double alike = rule->typical_logits.empty() ? 1.0 : likeness(logits, rule->typical_logits[place]);
  if (alike < rule->min_likeness) return {best, 0, "likeness " + below(alike, rule->min_likeness)};
  return {best, 1, ""};
}

}  // namespace spoter::detail
