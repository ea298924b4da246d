// A kiosk: reads raw RGB frames from its standard input, and says each word when it has been signed.
//   ffmpeg -i VIDEO -f rawvideo -pix_fmt rgb24 - | kiosk BUNDLE WIDTH HEIGHT FPS [live]
// "live": frames come by themselves, as from a camera, so that those that came meanwhile are left out and counted.
// The bundle has a landmarker: spoter-kit export --camera.
#include <spoter/spoter.hpp>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

namespace {

// Reads frames from the standard input in a thread of its own.
class Frames {
 public:
  Frames(std::size_t bytes, bool is_live) : frame_(bytes), is_live_(is_live), reader_([this] { read(); }) {}
  ~Frames() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_wanted_ = false;
    }
    changed_.notify_all();
    reader_.join();
  }

  // Waits for the next frame, the newest one where they are live; returns its number from 1 on, 0 at the end.
  std::size_t next(std::vector<std::uint8_t> &frame) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return number_ > taken_ || has_ended_; });
    if (number_ == taken_) return 0;
    frame.swap(frame_);
    taken_ = number_;
    changed_.notify_all();
    return taken_;
  }

  std::size_t left() const { return left_; }  // bytes after the last whole frame, once the end was seen

 private:
  void read() {
    std::vector<std::uint8_t> frame(frame_.size());
    while ((left_ = std::fread(frame.data(), 1, frame.size(), stdin)) == frame.size()) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return is_live_ || number_ == taken_ || !is_wanted_; });
      if (!is_wanted_) return;
      frame.swap(frame_);
      ++number_;
      changed_.notify_all();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    has_ended_ = true;
    changed_.notify_all();
  }

  std::vector<std::uint8_t> frame_;  // number_ of them were read, taken_ was the last one taken
  std::size_t number_ = 0, taken_ = 0, left_ = 0;
  bool is_live_, is_wanted_ = true, has_ended_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread reader_;  // last: it uses the others
};

void say(const std::vector<spoter::Event> &events, const std::vector<spoter_label> &labels) {
  for (const spoter::Event &event : events) {
    if (event.type == "sign")
      for (const spoter_label &label : labels) {
        if (event.label == label.name)
          std::printf("%s %s %.2f\n", label.name, label.bengali, event.score);
      }
    if (event.type == "abstain") std::printf("no sign: %s\n", event.reason.c_str());
    if (event.type == "fault") std::fprintf(stderr, "%s: %s\n", event.code.c_str(), event.reason.c_str());
  }
  std::fflush(stdout);
}

// Watches until the frames end; returns what the program returns.
int watch(const spoter::Recognizer &recognizer, spoter::Landmarker &landmarker, std::size_t width, std::size_t height,
          double fps, bool is_live) {
  const std::vector<spoter_label> labels = recognizer.labels();
  spoter::SignStream stream(recognizer);
  std::vector<std::uint8_t> rgb(3 * width * height);
  Frames frames(rgb.size(), is_live);
  std::size_t before = 0, taken = 0;
  for (std::size_t n; (n = frames.next(rgb)); before = n, ++taken) {
    try {
      const auto landmarks = landmarker.accept(rgb.data(), height, width);
      stream.accept(landmarks.data(), 1000 * double(n - 1) / fps, n - before - 1, landmarker.persons());
      say(stream.events(), labels);
    } catch (const spoter::Error &error) {  // without this frame: the next one may be sound
      std::fprintf(stderr, "frame %zu: %s\n", n, error.what());
    }
  }
  stream.flush();
  say(stream.events(), labels);
  if (before > taken) std::fprintf(stderr, "%zu of %zu frames were left out\n", before - taken, before);
  if (!frames.left() && before) return 0;
  if (!frames.left()) std::fprintf(stderr, "no frame came: does what writes them run?\n");
  else std::fprintf(stderr, "%zu bytes were left after %zu frames of %zux%zu\n", frames.left(), before, width, height);
  return 1;
}

}  // namespace

int main(int argc, char **argv) try {
  const bool is_live = argc == 6 && std::strcmp(argv[5], "live") == 0;
  if (argc != 5 && !is_live) return std::fprintf(stderr, "kiosk BUNDLE WIDTH HEIGHT FPS [live] < frames\n"), 2;
  const std::size_t width = std::strtoul(argv[2], nullptr, 10), height = std::strtoul(argv[3], nullptr, 10);
  const double fps = std::strtod(argv[4], nullptr);
  if (!width || width > 9999 || !height || height > 9999 || !(fps > 0))
    return std::fprintf(stderr, "a wrong size\n"), 2;
  if (!spoter::verify(argv[1]).passed || !spoter::verify_landmarker(argv[1]).passed)
    return std::fprintf(stderr, "%s: not verified on this device\n", argv[1]), 3;
  const spoter::Recognizer recognizer(argv[1]);
  spoter::Landmarker landmarker(argv[1]);
  return watch(recognizer, landmarker, width, height, fps, is_live);
} catch (const spoter::Error &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
