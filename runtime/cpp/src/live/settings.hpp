// Settings of a stream: times in milliseconds, lengths in shoulder widths, never frames or pixels.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace spoter::detail {

// What each of them means stands in spoter_runtime/live/settings.py.
struct StreamSettings {
  double fps = 30;
  std::string rest_by = "height";
  double rise = 0.7, fall = 0.5, moving = 0.8, still = 0.4;
  double shortest_ms = 200, rest_ms = 100, longest_ms = 5000, pad_start_ms = -100, pad_end_ms = -100;
  double window_ms = 267, hop_ms = 33, smooth_ms = 133, hold_ms = 33, valley = 0.2;
  double partial_ms = 200, tracking_ms = 1000, gap_ms = 700, least_hands = 0.05, least_probability = 0;
};

// Reads an object of settings; those that it does not name have their defaults. Throws Error.
StreamSettings settings_from_json(std::string_view text);

// The settings with a longest sign that the model takes; throws Error where not even the shortest fits.
StreamSettings fitting(StreamSettings settings, int64_t max_frames);

}  // namespace spoter::detail
