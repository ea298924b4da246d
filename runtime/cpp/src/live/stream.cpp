#include "stream.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../clip.hpp"
#include "../error.hpp"
#include "../json.hpp"
#include "../python.hpp"

namespace spoter::detail {
namespace {

constexpr size_t most_events = 4096;  // that wait; older ones are lost, but not "ready"
constexpr size_t most_best = 5;
constexpr size_t many = 10;  // frames in a row that come too soon, or too late: no camera does
constexpr const char *uncalibrated =
    "the bundle has no calibration: every segment is answered with a sign, also one that is none";

std::string percent(double share) { return fixed(100 * share, 0) + "%"; }

}  // namespace

SignStream::SignStream(const Recognizer &recognizer, const char *gate, const char *settings)
    : recognizer_(recognizer), gate_name_(gate ? gate : "rest") {
  if (gate_name_ != "rest" && gate_name_ != "window" && gate_name_ != "push")
    fail(SPOTER_CONFIG_ERROR, "gate " + shown(gate_name_) + ": expected rest, window, push");
  settings_ = fitting(settings ? settings_from_json(settings) : StreamSettings(), recognizer.contract().max_frames);
  reset();
}

void SignStream::reset() {
  owner_ = std::thread::id();
  pending_.clear();
  said_.reset();
  last_ms_.reset();
  warned_ = false;
  is_first_ = true;
  missed_ = 0;
  begin();
}

// Forgets the frames, but not the events.
void SignStream::begin() {
  const StreamSettings &s = settings_;
  frames_.emplace(s.longest_ms + s.gap_ms + s.rest_ms + s.window_ms + std::max(s.pad_start_ms, 0.0) + 1000);
  if (gate_name_ == "rest") gate_ = std::make_unique<RestGate>(s, s.longest_ms);
  else if (gate_name_ == "push") gate_ = std::make_unique<PushGate>(s);
  else gate_ = std::make_unique<WindowGate>(s, [this](double start, double end) { return shares(start, end); });
  next_partial_ms_ = never_ms;
  too_soon_ = too_late_ = 0;
  is_said_.clear();
  model_fails_ = false;
  tracked_ = {};
  most_persons_ = -1;
  tracked_from_.reset();
}

void SignStream::push(bool signing) {
  check_thread();
  auto *gate = dynamic_cast<PushGate *>(gate_.get());
  if (!gate)
    fail(SPOTER_CONFIG_ERROR, "push with the gate " + shown(gate_name_), "spoter_stream_create with the gate push");
  gate->pushed = signing;
}

const Event *SignStream::next_event() {
  check_thread();
  said_.reset();
  if (pending_.empty()) return nullptr;
  said_ = std::move(pending_.front());
  pending_.pop_front();
  return &*said_;
}

void SignStream::accept(const float *landmarks, double t_ms, size_t dropped, int persons) {
  check_thread();
  if (!landmarks) fail(SPOTER_INPUT_ERROR, "landmarks is NULL", "54 x 2 floats, NaN where not detected");
  missed_ += dropped;
  if (!is_later(t_ms)) return;
  if (is_first_) {
    is_first_ = false;
    say({"ready", t_ms}, {{"gate", json_text(gate_name_)},
                          {"backend", json_text(recognizer_.backend())},
                          {"labels", std::to_string(recognizer_.contract().labels.size())},
                          {"fps", json_number(settings_.fps)}});
  }
  if (last_ms_ && t_ms - *last_ms_ < 1000 / most_fps) {
    const std::string least = general(1000 / most_fps);
    too_soon_ = count(too_soon_, t_ms, "less than " + least + " ms after the last one and are left out");
    ++missed_;
    return;
  }
  say_dropped(t_ms);
  if (last_ms_ && t_ms - *last_ms_ > settings_.gap_ms) {
    mark(gate_->end(*last_ms_, "gap"), t_ms);
    too_late_ = count(too_late_, t_ms, "more than " + general(settings_.gap_ms) + " ms after the one before");
  } else {
    too_late_ = 0;
  }
  last_ms_ = t_ms;
  too_soon_ = 0;
  const std::optional<Pose> pose = landmarks_of(landmarks, t_ms);
  most_persons_ = std::max(most_persons_, persons);
  if (pose) take(t_ms, *pose);
}

void SignStream::flush() {
  check_thread();
  if (!last_ms_) return;
  say_dropped(*last_ms_);
  mark(gate_->end(*last_ms_, ""), *last_ms_);
  track(*last_ms_);
}

// Counts a frame that comes too soon or too late; many in a row have times in another unit.
size_t SignStream::count(size_t before, double t_ms, const std::string &how) {
  if (before + 1 == many)
    fault(t_ms, "time", std::to_string(many) + " frames in a row came " + how + "; t_ms is milliseconds");
  return before + 1;
}

// Counts a frame that cannot be used, and says why: once for many in a row.
void SignStream::leave_out(double t_ms, const char *code, const std::string &reason) {
  ++missed_;
  if (is_said_ != code) fault(t_ms, code, reason + "; the frame is left out, and those like it behind it");
  is_said_ = code;
}

void SignStream::say_dropped(double t_ms) {
  if (const size_t frames = std::exchange(missed_, 0)) say({"dropped", t_ms}, {{"frames", std::to_string(frames)}});
}

void SignStream::check_thread() {
  const std::thread::id me = std::this_thread::get_id();
  std::thread::id owner;
  if (!owner_.compare_exchange_strong(owner, me) && owner != me)
    fail(SPOTER_INPUT_ERROR, "a stream takes the frames of one thread, another one has begun",
         "one stream for each thread, or spoter_stream_reset before the other takes over");
}

bool SignStream::is_later(double t_ms) {
  if (!std::isfinite(t_ms)) {
    const char *words = std::isnan(t_ms) ? "nan" : t_ms > 0 ? "inf" : "-inf";
    leave_out(last_ms_.value_or(0), "time", std::string("a frame has no time: ") + words);
    return false;
  }
  if (!last_ms_ || t_ms > *last_ms_) return true;
  const double last = *last_ms_;
  const std::string went_back = "a frame of " + general(t_ms, 15) + " ms after one of " + general(last, 15) + " ms";
  if (last - t_ms > settings_.gap_ms) {  // another clock, or a file from its beginning
    mark(gate_->end(last, "gap"), last);
    fault(t_ms, "time", went_back + ": the stream begins anew");
    begin();
    last_ms_.reset();
    return true;
  }
  leave_out(last, "time", went_back + ": t_ms grows from frame to frame");
  return false;
}

// The landmarks of a frame; nothing, and a fault, where they cannot be used.
std::optional<Pose> SignStream::landmarks_of(const float *landmarks, double t_ms) {
  try {
    check_frame(landmarks, "frame");
  } catch (const Error &error) {
    leave_out(t_ms, "landmarks", error.message);
    return std::nullopt;
  }
  return with_nan(landmarks);
}

void SignStream::take(double t_ms, const Pose &pose) {
  is_said_.clear();
  const Seen seen = frames_->add(t_ms, pose);
  if (settings_.tracking_ms > 0) {
    ++tracked_.frames, tracked_.body += seen.body;
    tracked_.left_hand += seen.left_hand, tracked_.right_hand += seen.right_hand;
    if (tracked_from_) ++tracked_.steps;
    else tracked_from_ = t_ms;
    if (t_ms - *tracked_from_ >= settings_.tracking_ms) track(t_ms);
  }
  mark(gate_->accept(seen), t_ms);
  const std::optional<double> since = gate_->open_since();
  if (since && t_ms >= next_partial_ms_) partial(*since, t_ms);
}

// Reports on the tracking since the last report.
void SignStream::track(double t_ms) {
  const auto seen = std::exchange(tracked_, {});
  const std::optional<double> begin = std::exchange(tracked_from_, t_ms);
  const int persons = std::exchange(most_persons_, -1);
  if (!seen.frames || !begin || t_ms <= *begin) return;
  const double frames = static_cast<double>(seen.frames);
  const auto share = [&](size_t count) { return json_number(rounded(double(count) / frames, 3)); };
  say({"tracking", t_ms}, {{"frames_per_s", json_number(rounded(1000 * double(seen.steps) / (t_ms - *begin), 2))},
                           {"body", share(seen.body)},
                           {"left_hand", share(seen.left_hand)},
                           {"right_hand", share(seen.right_hand)},
                           {"persons", persons < 0 ? "null" : std::to_string(persons)}});
}

void SignStream::mark(const Marks &marks, double t_ms) {
  for (const Mark &mark : marks) {
    if (mark.kind == Mark::start) {
      say({"sign_start", t_ms, mark.start_ms}, {{"start_ms", json_number(mark.start_ms)}});
      next_partial_ms_ = settings_.partial_ms > 0 ? t_ms + settings_.partial_ms : never_ms;
    } else if (mark.kind == Mark::end) {
      answer(mark.start_ms, std::min(mark.end_ms, t_ms), t_ms);
    } else {
      abstain(mark.start_ms, mark.end_ms, t_ms, mark.code == "long" ? "long" : "gap", refusal(mark), nullptr);
    }
  }
}

std::string SignStream::refusal(const Mark &mark) const {
  if (mark.code != "long") return "no frame showed the wrists for more than " + general(settings_.gap_ms) + " ms";
  return "it lasts longer than " + general(settings_.longest_ms) + " ms" +
         (gate_name_ == "rest" ? "; signs without rests need the gate window" : "");
}

// The softmax of a window; all equal where nothing was found or the model failed. A label that means "no sign" has 0:
// part of a sign often looks like none, and would cut it.
std::vector<double> SignStream::shares(double start_ms, double end_ms) {
  const size_t labels = recognizer_.contract().labels.size();
  const std::optional<Answer> found = predict(cut(start_ms, end_ms), end_ms);
  if (!found) return std::vector<double>(labels, 1 / double(labels));
  std::vector<double> shares = softmax(found->logits.data(), labels);
  if (const auto &bundle = recognizer_.bundle(); bundle && bundle->abstention)
    for (const std::string &name : bundle->abstention->background)
      for (size_t i = 0; i < labels; ++i)
        if (label(i) == name) shares[i] = 0;
  return shares;
}

std::optional<SignStream::Answer> SignStream::predict(const std::vector<float> &clip, double t_ms) {
  if (std::all_of(clip.begin(), clip.end(), [](float value) { return std::isnan(value); })) return std::nullopt;
  const std::string name = "the segment that ends at " + general(t_ms, 15) + " ms";
  const spoter_clip given = {clip.data(), clip.size() / SPOTER_FEATURES, name.c_str()};
  Answer found;
  found.logits.resize(recognizer_.contract().labels.size());
  try {
    recognizer_.predict(&given, 1, &found.prediction, found.logits.data());
  } catch (const Error &error) {
    if (!model_fails_) fault(t_ms, "model", in_words(error));
    model_fails_ = true;
    return std::nullopt;
  }
  model_fails_ = false;
  const std::vector<double> shares = softmax(found.logits.data(), found.logits.size());
  std::vector<size_t> order(shares.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return found.logits[a] > found.logits[b]; });
  order.resize(std::min(order.size(), most_best));
  for (const size_t place : order) found.best.emplace_back(place, shares[place]);
  return found;
}

void SignStream::partial(double start_ms, double t_ms) {
  next_partial_ms_ = t_ms + settings_.partial_ms;
  const double begin = std::max(start_ms, t_ms - settings_.longest_ms);
  const std::optional<Answer> found = predict(cut(begin, t_ms), t_ms);
  if (!found) return;
  const auto [best, score] = found->best.front();
  say({"partial", t_ms, start_ms, no_number, score, no_number, label(best)}, {{"start_ms", json_number(start_ms)},
                                                                              {"label", json_text(label(best))},
                                                                              {"score", json_number(score)},
                                                                              {"best", best_in_json(*found)}});
}

// Recognises a segment, and says a sign or why not.
void SignStream::answer(double start_ms, double end_ms, double t_ms) {
  const std::vector<float> clip = cut(start_ms, end_ms);
  if (const double hands = hand_share(clip); hands < settings_.least_hands)
    return abstain(
        start_ms, end_ms, t_ms, "tracking",
        "a hand was found in " + percent(hands) + " of the frames, less than " + percent(settings_.least_hands),
        nullptr);
  const std::optional<Answer> found = predict(clip, t_ms);
  if (!found) return abstain(start_ms, end_ms, t_ms, "tracking", "the model gave no answer", nullptr);
  const spoter_prediction &prediction = found->prediction;
  if (prediction.is_sign < 0 && !warned_) {
    warned_ = true;
    fault(t_ms, "uncalibrated", uncalibrated);
  }
  const double sure = std::isnan(prediction.probability) ? prediction.score : prediction.probability;
  if (prediction.is_sign == 0) return abstain(start_ms, end_ms, t_ms, "not_a_sign", prediction.reason, &*found);
  if (sure < settings_.least_probability)
    return abstain(start_ms, end_ms, t_ms, "unsure",
                   fixed(sure, 2) + " is less than " + general(settings_.least_probability), &*found);
  const double second = found->best.size() > 1 ? found->best[1].second : 0;
  say({"sign", t_ms, start_ms, end_ms, prediction.score, prediction.probability, prediction.name},
      {{"start_ms", json_number(start_ms)},
       {"end_ms", json_number(end_ms)},
       {"label", json_text(prediction.name)},
       {"score", json_number(prediction.score)},
       {"probability", json_number(prediction.probability)},
       {"margin", json_number(found->best[0].second - second)},
       {"best", best_in_json(*found)},
       {"latency_ms", json_number(t_ms - end_ms)}});
}

void SignStream::abstain(double start_ms, double end_ms, double t_ms, const char *code, std::string reason,
                         const Answer *found) {
  const double score = found ? found->prediction.score : no_number;
  const double probability = found ? found->prediction.probability : no_number;
  const std::string name = found ? found->prediction.name : "";
  say({"abstain", t_ms, start_ms, end_ms, score, probability, name, code, reason},
      {{"start_ms", json_number(start_ms)},
       {"end_ms", json_number(end_ms)},
       {"code", json_text(code)},
       {"reason", json_text(reason)},
       {"label", found ? json_text(name) : "null"},
       {"score", json_number(score)},
       {"probability", json_number(probability)}});
}

void SignStream::fault(double t_ms, const char *code, std::string reason) {
  say({"fault", t_ms, no_number, no_number, no_number, no_number, "", code, reason},
      {{"code", json_text(code)}, {"reason", json_text(reason)}});
}

void SignStream::say(Event event, std::initializer_list<EventField> fields) {
  event.json = json_event(event, fields);
  pending_.push_back(std::move(event));
  const bool first_is_ready = std::string_view(pending_.front().type) == "ready";
  if (pending_.size() > most_events) pending_.erase(pending_.begin() + (first_is_ready ? 1 : 0));
}

std::string SignStream::best_in_json(const Answer &found) const {
  std::string made;
  for (const auto &[place, score] : found.best)
    made += (made.empty() ? "" : ", ") + ("{\"label\": " + json_text(label(place))) +
            ", \"score\": " + json_number(score) + "}";
  return "[" + made + "]";
}

}  // namespace spoter::detail
