// A kiosk: reads raw RGB frames from its standard input, and says each word when it has been signed.
//   ffmpeg -i VIDEO -f rawvideo -pix_fmt rgb24 - | kiosk BUNDLE WIDTH HEIGHT FPS
// The bundle has a landmarker: spoter-kit export --camera.
#include <spoter/spoter.hpp>

#include <cstdio>
#include <cstdlib>

namespace {

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

}  // namespace

int main(int argc, char **argv) try {
  if (argc != 5) return std::fprintf(stderr, "kiosk BUNDLE WIDTH HEIGHT FPS < frames\n"), 2;
  const std::size_t width = std::strtoul(argv[2], nullptr, 10), height = std::strtoul(argv[3], nullptr, 10);
  const double fps = std::strtod(argv[4], nullptr);
  if (!width || width > 9999 || !height || height > 9999 || !(fps > 0))
    return std::fprintf(stderr, "a wrong size\n"), 2;
  if (!spoter::verify(argv[1]).passed || !spoter::verify_landmarker(argv[1]).passed)
    return std::fprintf(stderr, "%s: not verified on this device\n", argv[1]), 3;
  const spoter::Recognizer recognizer(argv[1]);
  const std::vector<spoter_label> labels = recognizer.labels();
  spoter::Landmarker landmarker(argv[1]);
  spoter::SignStream stream(recognizer);
  std::vector<std::uint8_t> rgb(3 * width * height);
  double n = 0;
  std::size_t got = 0;
  for (; (got = std::fread(rgb.data(), 1, rgb.size(), stdin)) == rgb.size(); ++n) {
    const auto landmarks = landmarker.accept(rgb.data(), height, width);
    stream.accept(landmarks.data(), 1000 * n / fps, 0, landmarker.persons());
    say(stream.events(), labels);
  }
  stream.flush();
  say(stream.events(), labels);
  if (got || n == 0)
    return std::fprintf(stderr, "%zu bytes were left after %.0f frames of %zux%zu\n", got, n, width, height), 1;
} catch (const spoter::Error &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
