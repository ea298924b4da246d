#include "settings.hpp"

#include <algorithm>

#include "../error.hpp"
#include "../json.hpp"
#include "../python.hpp"

namespace spoter::detail {
namespace {

using Number = double StreamSettings::*;
struct Setting {
  const char *name;
  Number number = nullptr;  // of rest_by none
  double least = 0, most = 0;
};

constexpr Setting known[] = {
    {"fps", &StreamSettings::fps, 0.1, 1000},
    {"rest_by"},
    {"rise", &StreamSettings::rise, 0, 1000},
    {"fall", &StreamSettings::fall, 0, 1000},
    {"moving", &StreamSettings::moving, 0, 1000},
    {"still", &StreamSettings::still, 0, 1000},
    {"shortest_ms", &StreamSettings::shortest_ms, 0, 3.6e6},
    {"rest_ms", &StreamSettings::rest_ms, 0, 60000},
    {"longest_ms", &StreamSettings::longest_ms, 1, 3.6e6},
    {"pad_start_ms", &StreamSettings::pad_start_ms, -60000, 60000},
    {"pad_end_ms", &StreamSettings::pad_end_ms, -60000, 60000},
    {"window_ms", &StreamSettings::window_ms, 1, 60000},
    {"hop_ms", &StreamSettings::hop_ms, 1, 60000},
    {"smooth_ms", &StreamSettings::smooth_ms, 0, 60000},
    {"hold_ms", &StreamSettings::hold_ms, 0, 60000},
    {"valley", &StreamSettings::valley, 0, 1},
    {"partial_ms", &StreamSettings::partial_ms, 0, 3.6e6},
    {"tracking_ms", &StreamSettings::tracking_ms, 0, 3.6e6},
    {"gap_ms", &StreamSettings::gap_ms, 1, 60000},
    {"least_hands", &StreamSettings::least_hands, 0, 1},
    {"least_probability", &StreamSettings::least_probability, 0, 1},
};

[[noreturn]] void wrong(std::string message) { fail(SPOTER_CONFIG_ERROR, std::move(message)); }

const Setting &find(std::string_view name) {
  const auto found = std::find_if(std::begin(known), std::end(known), [&](auto &one) { return one.name == name; });
  if (found != std::end(known)) return *found;
  std::string names;
  for (const Setting &one : known) names += (names.empty() ? "" : ", ") + std::string(one.name);
  wrong("settings: no setting " + shown(name) + "; there are " + names);
}

void check_ranges(const StreamSettings &settings) {
  const auto value = [&](const char *name) { return settings.*find(name).number; };
  const auto told = [&](const char *name) { return std::string(name) + "=" + number_in_words(value(name)); };
  for (const auto &[name, number, least, most] : known)
    if (number && !(least <= settings.*number && settings.*number <= most))
      wrong(told(name) + ": expected " + general(least) + ".." + fixed(most, 0));
  for (const auto &[low, high] :
       {std::pair("fall", "rise"), std::pair("still", "moving"), std::pair("shortest_ms", "longest_ms")})
    if (!(0 < value(low) && value(low) < value(high)))
      wrong(told(low) + ", " + told(high) + ": expected 0 < " + low + " < " + high);
}

}  // namespace

StreamSettings settings_from_json(std::string_view text) try {
  const Value given = parse_json(text);
  if (given.kind != Kind::table) wrong("settings: expected settings by name, got " + shown(given));
  StreamSettings settings;
  for (const auto &[name, value] : given.members) {
    const Number number = find(name).number;
    if (!number && value.kind == Kind::text && (value.text == "height" || value.text == "motion"))
      settings.rest_by = value.text;
    else if (!number) wrong("rest_by=" + shown(value) + ": expected height or motion");
    else if (value.kind != Kind::integer && value.kind != Kind::number)
      wrong("settings: " + name + ": expected a number, got " + shown(value));
    else settings.*number = value.number;
  }
  check_ranges(settings);
  return settings;
} catch (const ValueError &error) {
  wrong("settings: cannot be read as JSON: " + error.message);
}

StreamSettings fitting(StreamSettings settings, int64_t max_frames) {
  const double padding = std::max(settings.pad_start_ms, 0.0) + std::max(settings.pad_end_ms, 0.0);
  settings.longest_ms =
      std::min(settings.longest_ms, 1000 * static_cast<double>(max_frames - 1) / settings.fps - padding);
  check_ranges(settings);
  return settings;
}

}  // namespace spoter::detail
