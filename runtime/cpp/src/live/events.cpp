#include "events.hpp"

#include <cmath>

#include "../json.hpp"

namespace spoter::detail {

spoter_event Event::raw() const {
  const auto pointer = [](const std::string &text) { return text.empty() ? nullptr : text.c_str(); };
  return {type,        t_ms,           start_ms,      end_ms,          score,
          probability, pointer(label), pointer(code), pointer(reason), json.c_str()};
}

std::string json_number(double number) { return std::isnan(number) ? "null" : number_in_words(number); }

std::string json_text(std::string_view text) {
  Value value;
  value.kind = Kind::text, value.text = text;
  return canonical(value);
}

std::string json_event(const Event &event, std::initializer_list<EventField> fields) {
  std::string made = "{\"type\": " + json_text(event.type) + ", \"t_ms\": " + json_number(event.t_ms);
  for (const auto &[name, value] : fields) made += ", \"" + std::string(name) + "\": " + value;
  return made + "}";
}

}  // namespace spoter::detail
