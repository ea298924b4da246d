// SignStream: frames with their times go in, events come out.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../recognizer.hpp"
#include "events.hpp"
#include "frames.hpp"
#include "gates.hpp"
#include "settings.hpp"

namespace spoter::detail {

// It has no clock and starts no thread: the same frames with the same times give the same events.
class SignStream {
 public:
  SignStream(const Recognizer &recognizer, const char *gate, const char *settings);

  void reset();             // forgets everything: another video begins, or another thread takes over
  void push(bool signing);  // a sign begins or ends with the next frame; for the gate "push"
  void accept(const float *landmarks, double t_ms, size_t dropped, int persons);
  void flush();               // ends what goes on: no frame will come any more
  const Event *next_event();  // NULL: none waits; valid until the next call

 private:
  struct Answer {
    spoter_prediction prediction;
    std::vector<float> logits;
    std::vector<std::pair<size_t, double>> best;  // label and score, the best first
  };

  void begin();
  void check_thread();
  bool is_later(double t_ms);
  std::optional<Pose> landmarks_of(const float *landmarks, double t_ms);
  size_t count(size_t before, double t_ms, const std::string &how);
  void leave_out(double t_ms, const char *code, const std::string &reason);
  void say_dropped(double t_ms);
  void take(double t_ms, const Pose &pose);
  void track(double t_ms);
  void mark(const Marks &marks, double t_ms);
  std::string refusal(const Mark &mark) const;
  std::vector<double> shares(double start_ms, double end_ms);
  std::vector<float> cut(double start_ms, double end_ms) const { return frames_->cut(start_ms, end_ms, settings_.fps); }
  std::optional<Answer> predict(const std::vector<float> &clip, double t_ms);
  void partial(double start_ms, double t_ms);
  void answer(double start_ms, double end_ms, double t_ms);
  void abstain(double start_ms, double end_ms, double t_ms, const char *code, std::string reason, const Answer *found);
  void fault(double t_ms, const char *code, std::string reason);
  void say(Event event, std::initializer_list<EventField> fields);
  std::string best_in_json(const Answer &found) const;
  const std::string &label(size_t index) const { return recognizer_.contract().labels[index].name; }

  const Recognizer &recognizer_;
  std::string gate_name_;
  StreamSettings settings_;
  std::atomic<std::thread::id> owner_;
  std::deque<Event> pending_;
  std::optional<Event> said_;
  std::optional<double> last_ms_, tracked_from_;
  bool warned_ = false, is_first_ = true;
  std::optional<Frames> frames_;
  std::unique_ptr<Gate> gate_;
  double next_partial_ms_ = never_ms;
  struct {
    size_t frames = 0, body = 0, left_hand = 0, right_hand = 0;
    size_t steps = 0;  // from frame to frame since the last report
  } tracked_;
  int most_persons_ = -1;
  size_t missed_ = 0;                   // frames since the last one that was taken: dropped, or left out
  size_t too_soon_ = 0, too_late_ = 0;  // in a row
  std::string is_said_;                 // the fault of the frames in a row that are left out
  bool model_fails_ = false;
};

}  // namespace spoter::detail
