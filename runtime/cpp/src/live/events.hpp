// Events of a stream: one JSON object each; docs/reference/events.md has the schema.
#pragma once

#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "spoter/spoter.h"

namespace spoter::detail {

inline constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

struct Event {
  const char *type;
  double t_ms;
  double start_ms = no_number, end_ms = no_number, score = no_number, probability = no_number;
  std::string label = {}, code = {}, reason = {}, json = {};

  spoter_event raw() const;  // points into this event
};

using EventField = std::pair<const char *, std::string>;  // a name, and its value in JSON

std::string json_number(double number);  // NaN: null
std::string json_text(std::string_view text);
// The event as JSON; its fields behind type and time, in the order given.
std::string json_event(const Event &event, std::initializer_list<EventField> fields);

}  // namespace spoter::detail
