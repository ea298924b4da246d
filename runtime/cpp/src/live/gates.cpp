#include "gates.hpp"

#include <algorithm>
#include <cmath>

namespace spoter::detail {
namespace {

constexpr double hanging = 2.5;  // of resting hands below the shoulders, at most; in the lap 1.4
constexpr double rest_seconds = 20;

size_t best_of(const std::vector<double> &shares) {
  return static_cast<size_t>(std::max_element(shares.begin(), shares.end()) - shares.begin());
}

}  // namespace

Marks RestGate::accept(const Seen &seen) {
  const double t_ms = seen.t_ms;
  const std::optional<bool> up = is_up(seen);
  if (up.value_or(false)) {
    down_since_.reset(), end_ms_.reset();
    last_up_ms_ = t_ms;
    if (!since_) since_ = t_ms;
    return goes_on(t_ms);
  }
  if (!since_) return {};
  if (!end_ms_) end_ms_ = up ? t_ms : last_up_ms_;
  if (!down_since_ && !up) return t_ms - last_up_ms_ > settings_.gap_ms ? end(last_up_ms_, "gap") : Marks();
  if (!down_since_) down_since_ = t_ms;
  return t_ms - *down_since_ < settings_.rest_ms ? Marks() : close(*end_ms_);
}

Marks RestGate::end(double t_ms, const std::string &code) {
  if (!since_) return {};
  if (code.empty() || !open_since()) return close(end_ms_.value_or(t_ms));
  const Mark mark = {Mark::refused, *since_, t_ms, code};
  forget();
  return {mark};
}

Marks RestGate::goes_on(double t_ms) {
  const double length = t_ms - *since_;
  if (!said_ && length >= settings_.shortest_ms) {
    said_ = true;
    return {{Mark::start, *since_, t_ms}};
  }
  if (said_ && !refused_ && length > longest_ms_) {
    refused_ = true;  // until the hands rest
    return {{Mark::refused, *since_, t_ms, "long"}};
  }
  return {};
}

Marks RestGate::close(double end_ms) {
  const std::optional<double> since = open_since();
  forget();
  return since ? Marks{padded(*since, end_ms)} : Marks();
}

Mark RestGate::padded(double start_ms, double end_ms) const {
  const double start = start_ms - settings_.pad_start_ms, end = end_ms + settings_.pad_end_ms;
  if (end - start >= settings_.shortest_ms) return {Mark::end, start, end};
  return {Mark::end, start_ms, end_ms};
}

void RestGate::forget() {
  since_.reset(), down_since_.reset(), end_ms_.reset();
  said_ = refused_ = false;
}

std::optional<bool> RestGate::is_up(const Seen &seen) {
  const bool was_up = since_ && !down_since_, by_motion = settings_.rest_by == "motion";
  if (std::isnan(by_motion ? seen.speed : seen.height)) return std::nullopt;
  if (by_motion) return seen.speed > (was_up ? settings_.still : settings_.moving);
  return seen.height < rest_height(seen) - (was_up ? settings_.fall : settings_.rise);
}

double RestGate::rest_height(const Seen &seen) {
  const double second = std::floor(seen.t_ms / 1000);
  if (lowest_.empty() || lowest_.back().second != second) lowest_.push_back({second, seen.height});
  else lowest_.back().height = std::max(lowest_.back().height, seen.height);
  while (lowest_.front().second < second - rest_seconds) lowest_.pop_front();
  const auto lowest = std::max_element(lowest_.begin(), lowest_.end(),
                                       [](const Lowest &a, const Lowest &b) { return a.height < b.height; });
  return std::min(lowest->height, hanging);
}

Marks PushGate::accept(const Seen &seen) {
  const double t_ms = seen.t_ms;
  if (!pushed) return end(t_ms, "");
  if (!since_ || !std::isnan(seen.height)) seen_ms_ = t_ms;
  if (!since_) {
    since_ = t_ms;
    return {{Mark::start, t_ms, t_ms}};
  }
  const bool is_lost = t_ms - seen_ms_ > settings_.gap_ms;
  if (!is_lost && t_ms - *since_ <= settings_.longest_ms) return {};
  pushed = false;
  return is_lost ? end(seen_ms_, "gap") : end(t_ms, "long");
}

Marks PushGate::end(double t_ms, const std::string &code) {
  const std::optional<double> since = since_;
  since_.reset();
  return since ? Marks{{code.empty() ? Mark::end : Mark::refused, *since, t_ms, code}} : Marks();
}

WindowGate::Run::Run(size_t of, double begin_ms, double share)
    : label(of), start_ms(begin_ms), peak_(share), trough_(share), trough_ms_(begin_ms) {}

std::optional<double> WindowGate::Run::follow(double share, double middle_ms, double valley) {
  if (std::min(peak_, share) - trough_ > valley) return trough_ms_;
  if (share >= peak_) peak_ = trough_ = share, trough_ms_ = middle_ms;
  else if (share < trough_) trough_ = share, trough_ms_ = middle_ms;
  return std::nullopt;
}

Marks WindowGate::accept(const Seen &seen) {
  for (const Mark &mark : rest_.accept(seen)) {
    if (mark.kind == Mark::end) return close(mark.end_ms);
    if (mark.kind == Mark::refused) return end(mark.end_ms, "gap");
  }
  if (!rest_.since()) {
    forget();
    return {};
  }
  if (seen.t_ms < next_ms_ || !rest_.is_signing()) return {};
  next_ms_ = seen.t_ms + settings_.hop_ms - 1e-6;
  const double length = std::min(settings_.window_ms, seen.t_ms - *rest_.since());
  return asked(seen.t_ms, seen.t_ms - length / 2, shares_(seen.t_ms - length, seen.t_ms));
}

Marks WindowGate::end(double t_ms, const std::string &code) {
  rest_.end(t_ms, code);
  if (code.empty() || !run_) return close(t_ms);
  const Mark mark = {Mark::refused, run_->start_ms, t_ms, code};
  forget();
  return {mark};
}

void WindowGate::forget() {
  recent_.clear();
  next_ms_ = -never_ms;
  run_.reset(), other_.reset();
  refused_ = false;
}

Marks WindowGate::close(double end_ms) {
  const std::optional<Run> run = refused_ ? std::nullopt : run_;
  forget();
  return run ? segment(*run, end_ms) : Marks();
}

// Takes one window's scores.
Marks WindowGate::asked(double t_ms, double middle_ms, std::vector<double> shares) {
  recent_.push_back({middle_ms, std::move(shares)});
  while (recent_.front().middle_ms < middle_ms - settings_.smooth_ms) recent_.pop_front();
  std::vector<double> mean(recent_.back().shares.size());
  for (const Window &window : recent_)
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += window.shares[i];
  for (double &share : mean) share /= double(recent_.size());
  middle_ms = (recent_.front().middle_ms + middle_ms) / 2;
  const size_t best = best_of(mean);
  if (!run_) {
    run_.emplace(best, *rest_.since(), mean[best]);
    return {{Mark::start, run_->start_ms, t_ms}};
  }
  if (best != run_->label) return another(best, middle_ms, t_ms, mean[best]);
  other_.reset();
  const std::optional<double> valley = run_->follow(mean[best], middle_ms, settings_.valley);
  if (valley && *valley - run_->start_ms >= settings_.shortest_ms)
    return next_run(Run(best, *valley, mean[best]), t_ms);
  if (t_ms - run_->start_ms > settings_.longest_ms && !refused_) {
    refused_ = true;
    return {{Mark::refused, run_->start_ms, t_ms, "long"}};
  }
  return {};
}

// Another label is best: a new sign where it holds long enough, else a flicker.
Marks WindowGate::another(size_t label, double middle_ms, double t_ms, double share) {
  if (!other_ || other_->label != label) other_.emplace(label, middle_ms, share);
  if (middle_ms - other_->start_ms < settings_.hold_ms) return {};
  return next_run(Run(*other_), t_ms);
}

Marks WindowGate::next_run(const Run &run, double t_ms) {
  const Run before = *run_;
  const bool refused = refused_;
  run_ = run, other_.reset(), refused_ = false;
  const Mark started = {Mark::start, run.start_ms, t_ms};
  if (refused) return {started};
  Marks marks = segment(before, run.start_ms + settings_.pad_end_ms);
  if (!marks.empty()) marks.push_back(started);
  return marks;
}

// Ends a run's segment; a flicker has none: too short, or as a whole of another label.
Marks WindowGate::segment(const Run &run, double end_ms) {
  const double start_ms = run.start_ms - settings_.pad_start_ms;
  if (end_ms - start_ms < settings_.shortest_ms) return {};
  return best_of(shares_(start_ms, end_ms)) == run.label ? Marks{{Mark::end, start_ms, end_ms}} : Marks();
}

}  // namespace spoter::detail
