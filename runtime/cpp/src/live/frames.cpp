#include "frames.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../clip.hpp"

namespace spoter::detail {
namespace {

constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
constexpr double speed_ms = 80;      // a speed is measured over at least so long
constexpr double bridged_ms = 250;   // points are interpolated over at most so long
constexpr double near = 1e-3;        // share of the time between two frames that counts as none
constexpr double most_cut = 100001;  // more than any contract may claim: a segment of so many is refused
constexpr size_t right_shoulder = 6, left_shoulder = 7;
constexpr size_t left_hand = 12, right_hand = 33, hand_points = 21;
constexpr size_t body_wrists[] = {10, 11}, hand_wrists[] = {right_hand, left_hand};

bool found(const Pose &pose, size_t point) {
  return std::isfinite(pose[2 * point]) && std::isfinite(pose[2 * point + 1]);
}

bool any_found(const Pose &pose, size_t first) {
  for (size_t point = first; point < first + hand_points; ++point)
    if (found(pose, point)) return true;
  return false;
}

}  // namespace

Frames::Wrists Frames::wrists_of(double t_ms, const Pose &pose) {
  Wrists wrists = {t_ms, {unknown, unknown}, {unknown, unknown}};
  const float *right = &pose[2 * right_shoulder], *left = &pose[2 * left_shoulder];
  const float width = std::hypot(left[0] - right[0], left[1] - right[1]);
  if (!(width > 0)) return wrists;
  for (size_t i = 0; i < 2; ++i) {
    const float *wrist = &pose[2 * (std::isnan(pose[2 * hand_wrists[i]]) ? body_wrists : hand_wrists)[i]];
    wrists.x[i] = (wrist[0] - (left[0] + right[0]) / 2) / width;
    wrists.y[i] = (wrist[1] - (left[1] + right[1]) / 2) / width;
  }
  return wrists;
}

double Frames::speed(const Wrists &wrists) {
  wrists_.push_back(wrists);
  while (wrists_.size() > 2 && wrists_[1].t_ms <= wrists.t_ms - speed_ms) wrists_.pop_front();
  const Wrists &before = wrists_.front();
  const double elapsed_s = (wrists.t_ms - before.t_ms) / 1000;
  float moved = unknown;  // fmax ignores NaN
  for (size_t i = 0; i < 2; ++i)
    moved = std::fmax(moved, std::hypot(wrists.x[i] - before.x[i], wrists.y[i] - before.y[i]));
  return elapsed_s > 0 ? double(moved) / elapsed_s : double(unknown);
}

Seen Frames::add(double t_ms, const Pose &pose) {
  frames_.push_back({t_ms, pose});
  while (frames_.front().t_ms < t_ms - keep_ms_) frames_.pop_front();
  const Wrists wrists = wrists_of(t_ms, pose);
  return {t_ms,
          double(std::fmin(wrists.y[0], wrists.y[1])),
          speed(wrists),
          found(pose, right_shoulder) && found(pose, left_shoulder),
          any_found(pose, left_hand),
          any_found(pose, right_hand)};
}

std::vector<float> Frames::cut(double start_ms, double end_ms, double fps) const {
  const double step_ms = 1000 / fps;
  const double count = std::min(std::floor((end_ms - start_ms) / step_ms + near) + 1, most_cut);
  if (frames_.empty() || !(count >= 1)) return {};
  std::vector<float> clip(static_cast<size_t>(count) * SPOTER_FEATURES);
  for (size_t n = 0; n < static_cast<size_t>(count); ++n) {
    const double t_ms = start_ms + step_ms * double(n);
    const auto later = std::lower_bound(frames_.begin(), frames_.end(), t_ms - near * step_ms,
                                        [](const Frame &frame, double time) { return frame.t_ms < time; });
    const Frame &right = later == frames_.end() ? frames_.back() : *later;
    const Frame &left = &right == &frames_.front() ? right : *(later == frames_.end() ? later - 2 : later - 1);
    const double gap = right.t_ms - left.t_ms;
    const double share = gap > 0 ? std::min(std::max((t_ms - left.t_ms) / gap, 0.0), 1.0) : 1;
    const Pose &nearer = share >= 0.5 ? right.pose : left.pose;
    const bool as_it_is = std::min(share, 1 - share) * gap <= near * step_ms || gap > bridged_ms;
    for (size_t i = 0; i < SPOTER_FEATURES; ++i) {
      const float between = left.pose[i] + static_cast<float>(share) * (right.pose[i] - left.pose[i]);
      clip[n * SPOTER_FEATURES + i] = as_it_is || !std::isfinite(between) ? nearer[i] : between;
    }
  }
  return clip;
}

Pose with_nan(const float *pose) {
  Pose made;
  for (size_t i = 0; i < SPOTER_LANDMARKS; ++i)
    for (size_t axis = 0; axis < 2; ++axis) made[2 * i + axis] = detected(pose + 2 * i) ? pose[2 * i + axis] : unknown;
  return made;
}

}  // namespace spoter::detail
