// Runs a bundle's network in a program of one's own: the likeliest class of an image, and what a call takes.
//
//     classify FOLDER [IMAGE.npy]      FOLDER: an unpacked bundle; without an image its own check input is taken
//
// Built by the Makefile beside this file. The headers are tvm_sched/deploy/board/; they throw std::runtime_error with one sentence.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>

#include "network.h"

namespace {

int run(const std::string& folder, const std::string& image) {
  setenv("TVM_BIND_THREADS", "0", 1);  // the program's threads stay where the program puts them
  const bundle::Description about(folder + "/network.txt");
  bundle::Network network(folder + "/net.so", about, 1);
  const npz::Arrays inputs = bundle::read_inputs(image, about.tensors("input"));

  npz::Arrays outputs = network(inputs);
  const npy::Array& scores = outputs.at(0).second;
  size_t best = 0;
  for (size_t place = 1; place < scores.count(); ++place)
    if (scores.number(place) > scores.number(best)) best = place;

  constexpr int calls = 20;
  double least = 1e9;
  for (int call = 0; call < calls; ++call) {
    const auto began = std::chrono::steady_clock::now();
    network(inputs);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    least = std::min(least, took.count());
  }
  std::printf("class %zu, score %.6f; %.3f ms\n", best, scores.number(best), least);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 2 || count > 3) {
    std::fputs("usage: classify FOLDER [IMAGE.npy]\n", stderr);
    return 2;
  }
  const std::string folder = words[1];
  try {
    return run(folder, count == 3 ? words[2] : folder + "/check/inputs.npz");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 2;
  }
}
