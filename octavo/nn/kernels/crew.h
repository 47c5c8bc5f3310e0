// How many threads a call takes: all, or one fewer while another program holds a core.
//
// A thread whose core is taken holds the others up at every barrier. When they wait for a large part of the calls, one
// thread fewer is tried for some calls, and kept for a while if that is faster; then all are tried again. What proves
// slower is tried more seldom each time. Calls are compared with earlier ones of about the same size, whose time is
// kept for each size: a server's batches change all the time. One late call alone is
// no reason. Results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>

class Crew {
  public:
    explicit Crew(int most) : most(most), now(most) {}

    int size() const { return now; }

    // After a call: its size in tokens, how long it took, and the share of that time, 0..1, for which threads waited on
    // average for the last one.
    void ran(int size, double seconds, double waited) {
        double& whole_s = usual_s[bucket(size)];
        calls++;
        if (now == most) {
            whole_s = whole_s == 0 ? seconds : whole_s * KEEP + seconds * (1 - KEEP);
            late = waited > MUCH ? std::min(late + 2, LATE + 1) : std::max(late - 1, 0);
            if (calls > rest + LOOK && late >= LATE && most > 1) return become(most - 1);
            if (calls > HOLD) hold = HOLD;  // the core is free again
            if (calls > LONGEST) patience = PATIENCE;
            return;
        }
        if (whole_s > 0) gain += (whole_s - seconds) / whole_s, judged++;
        const bool worse = judged >= FEW && gain < -LITTLE * judged;
        if (kept ? calls >= hold : worse || calls >= TRY) judge();
    }

  private:
    static constexpr double KEEP = 0.5, MUCH = 0.3, LITTLE = 0.05;
    static constexpr int LOOK = 2, FEW = 5, TRY = 12, HOLD = 16, MOST_HOLD = 128, PATIENCE = 64, LONGEST = 1024;  // calls
    static constexpr int LATE = 3;  // two calls with much waiting, and at most one without it between them
    static constexpr int BUCKETS = 64;

    const int most;
    int now, calls = 0, judged = 0, rest = 0, hold = HOLD, patience = PATIENCE;
    int late = 0;  // up by two for a call with much waiting, down by one for another
    bool kept = false;
    double gain = 0, usual_s[BUCKETS] = {};  // seconds of a call with all threads

    // A quarter of an octave.
    static int bucket(int size) {
        const int found = size < 4 ? size : (int)(4 * std::log2((double)size)) - 4;
        return found < BUCKETS ? found : BUCKETS - 1;
    }

    // One fewer was tried, or kept for a while.
    void judge() {
        const bool faster = judged >= FEW && gain > LITTLE * judged;
        if (!kept && faster) {
            kept = true, calls = 0, gain = 0, judged = 0;
            return;
        }
        if (kept) {  // look again at once: the core may be free
            rest = 0, hold = hold * 2 < MOST_HOLD ? hold * 2 : MOST_HOLD;
        } else {
            rest = patience, patience = patience * 2 < LONGEST ? patience * 2 : LONGEST, hold = HOLD;
        }
        become(most);
    }
    void become(int size) { now = size, calls = 0, late = 0, gain = 0, judged = 0, kept = false; }
};
