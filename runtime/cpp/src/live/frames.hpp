// The frames of the last seconds, what each shows, and segments of them at the model's frame rate.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "spoter/spoter.h"

namespace spoter::detail {

inline constexpr double most_fps = 125;  // frames that come faster are left out: what is kept is bounded

using Pose = std::array<float, SPOTER_FEATURES>;

// What one frame shows, in shoulder widths; NaN: unknown.
struct Seen {
  double t_ms;
  double height;  // of the higher wrist below the shoulders (0: at the shoulders, 2: hanging down)
  double speed;   // of the faster wrist, shoulder widths a second
  bool body, left_hand, right_hand;
};

class Frames {
 public:
  explicit Frames(double keep_ms) : keep_ms_(keep_ms) {}

  // Keeps a frame, forgets those that are too old, and returns what it shows.
  Seen add(double t_ms, const Pose &pose);

  // The segment at another frame rate, both ends included. A frame whose time fits is taken as it is. Between two
  // frames a point that both have is interpolated; another point comes from the nearer frame: a position between found
  // and not found would be invented.
  std::vector<float> cut(double start_ms, double end_ms, double fps) const;

 private:
  struct Frame {
    double t_ms;
    Pose pose;
  };
  struct Wrists {  // of the last moment, relative to the middle of the shoulders; right and left
    double t_ms;
    float x[2], y[2];
  };

  static Wrists wrists_of(double t_ms, const Pose &pose);
  double speed(const Wrists &wrists);

  double keep_ms_;
  std::deque<Frame> frames_;
  std::deque<Wrists> wrists_;
};

Pose with_nan(const float *pose);  // NaN for each point that was not detected: (0, 0), or NaN in x or y

}  // namespace spoter::detail
