// Gates: what a frame shows → where a sign begins and ends. They know times and heights, and no labels.
#pragma once

#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "frames.hpp"
#include "settings.hpp"

namespace spoter::detail {

inline constexpr double never_ms = std::numeric_limits<double>::infinity();

// What a gate found: a sign has begun; it has ended; it is refused, and why: "long" or "gap".
struct Mark {
  enum Kind { start, end, refused } kind;
  double start_ms, end_ms;  // of the segment, padding included; `end_ms` of one that has begun is now
  std::string code = {};
};
using Marks = std::vector<Mark>;

class Gate {
 public:
  virtual ~Gate() = default;
  virtual std::optional<double> open_since() const = 0;  // start of the sign that goes on
  virtual Marks accept(const Seen &seen) = 0;
  // Ends what goes on: nothing comes any more, or ("gap") no wrists were seen for too long.
  virtual Marks end(double t_ms, const std::string &code) = 0;
};

// Finds where a sign begins and ends: between hands at rest, by the height or speed of the wrists. A frame that does not
// show them counts like one that never came; see gates.py.
class RestGate : public Gate {
 public:
  RestGate(const StreamSettings &settings, double longest_ms) : settings_(settings), longest_ms_(longest_ms) {}

  std::optional<double> open_since() const override { return said_ && !refused_ ? since_ : std::nullopt; }
  Marks accept(const Seen &seen) override;
  Marks end(double t_ms, const std::string &code) override;

  std::optional<double> since() const { return since_; }  // the hands are up since
  bool is_signing() const { return said_ && !end_ms_; }   // the hands are up in this frame, for long enough

 private:
  Marks goes_on(double t_ms);
  Marks close(double end_ms);
  Mark padded(double start_ms, double end_ms) const;
  void forget();
  std::optional<bool> is_up(const Seen &seen);  // nothing: the frame does not show the hands
  double rest_height(const Seen &seen);

  const StreamSettings &settings_;
  double longest_ms_;
  struct Lowest {
    double second, height;
  };
  std::deque<Lowest> lowest_;  // the lowest hands in each second
  std::optional<double> since_, down_since_, end_ms_;
  double last_up_ms_ = 0;
  bool said_ = false, refused_ = false;
};

// The application says when a sign begins and ends.
class PushGate : public Gate {
 public:
  explicit PushGate(const StreamSettings &settings) : settings_(settings) {}

  std::optional<double> open_since() const override { return since_; }
  Marks accept(const Seen &seen) override;
  Marks end(double t_ms, const std::string &code) override;

  bool pushed = false;

 private:
  const StreamSettings &settings_;
  std::optional<double> since_;
  double seen_ms_ = -never_ms;  // the last frame that showed the wrists
};

using Shares = std::function<std::vector<double>(double start_ms, double end_ms)>;  // a score for each label

// Cuts signing without rests where the best label of overlapping windows changes; see gates.py.
class WindowGate : public Gate {
 public:
  WindowGate(const StreamSettings &settings, Shares shares)
      : settings_(settings), shares_(std::move(shares)), rest_(settings, never_ms) {}

  std::optional<double> open_since() const override {
    return run_ && !refused_ ? std::optional(run_->start_ms) : std::nullopt;
  }
  Marks accept(const Seen &seen) override;
  Marks end(double t_ms, const std::string &code) override;

 private:
  // Windows in a row with one best label.
  struct Run {
    Run(size_t label, double start_ms, double share);
    // Takes the next window's score; returns the time of a valley that has just been left.
    std::optional<double> follow(double share, double middle_ms, double valley);

    size_t label;
    double start_ms;

   private:
    double peak_, trough_, trough_ms_;
  };
  struct Window {
    double middle_ms;
    std::vector<double> shares;
  };

  void forget();
  Marks close(double end_ms);
  Marks asked(double t_ms, double middle_ms, std::vector<double> shares);
  Marks another(size_t label, double middle_ms, double t_ms, double share);
  Marks next_run(const Run &run, double t_ms);
  Marks segment(const Run &run, double end_ms);

  const StreamSettings &settings_;
  Shares shares_;
  RestGate rest_;  // signs in a row may take any time
  std::deque<Window> recent_;
  double next_ms_ = -never_ms;
  std::optional<Run> run_, other_;
  bool refused_ = false;
};

}  // namespace spoter::detail
