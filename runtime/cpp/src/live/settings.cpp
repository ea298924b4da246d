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
  Number number;  // of rest_by none
};

constexpr Setting known[] = {
    {"fps", &StreamSettings::fps},
    {"rest_by", nullptr},
    {"rise", &StreamSettings::rise},
    {"fall", &StreamSettings::fall},
    {"moving", &StreamSettings::moving},
    {"still", &StreamSettings::still},
    {"shortest_ms", &StreamSettings::shortest_ms},
    {"rest_ms", &StreamSettings::rest_ms},
    {"longest_ms", &StreamSettings::longest_ms},
    {"pad_start_ms", &StreamSettings::pad_start_ms},
    {"pad_end_ms", &StreamSettings::pad_end_ms},
    {"window_ms", &StreamSettings::window_ms},
    {"hop_ms", &StreamSettings::hop_ms},
    {"smooth_ms", &StreamSettings::smooth_ms},
    {"hold_ms", &StreamSettings::hold_ms},
    {"valley", &StreamSettings::valley},
    {"partial_ms", &StreamSettings::partial_ms},
    {"tracking_ms", &StreamSettings::tracking_ms},
    {"gap_ms", &StreamSettings::gap_ms},
    {"least_hands", &StreamSettings::least_hands},
    {"least_probability", &StreamSettings::least_probability},
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
  for (const char *name : {"fps", "shortest_ms", "longest_ms", "window_ms", "hop_ms", "gap_ms"})
    if (!(value(name) > 0)) wrong(told(name) + ": expected more than 0");
  struct Range {
    const char *name;
    double least, most;
  };
  for (const auto &[name, least, most] : {Range{"fps", 0.1, 1000}, {"hop_ms", 1, 3.6e6}, {"longest_ms", 1, 3.6e6}})
    if (value(name) < least || value(name) > most)
      wrong(told(name) + ": expected " + general(least) + ".." + general(most));
  for (const char *name : {"rest_ms", "smooth_ms", "hold_ms", "partial_ms", "tracking_ms"})
    if (!(value(name) >= 0)) wrong(told(name) + ": expected 0 or more");
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
