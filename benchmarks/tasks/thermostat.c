/* A heated house over one day: the compiled simulator behind benchmarks/tasks/thermostat.py.

   Standard input and output are doubles of the machine. Every row has eight settings, one for every three hours, in
   degrees; the answer is two numbers: the energy used (share of the time that the burner runs), and the discomfort
   (mean squared degrees below 20 while somebody is at home). The burner has hysteresis and runs for at least three
   minutes, so that the answers move in steps. */
#include <math.h>
#include <stdio.h>

enum { PERIODS = 8, STEPS = 1440, LEAST_RUN = 3 };

static void simulate(const double *setting, double *answer) {
    double air = 18.0, wall = 16.0, run = 0.0, cold = 0.0;
    int on = 0, since = LEAST_RUN, home_steps = 0;
    for (int step = 0; step < STEPS; step++) {
        double outside = 4.0 - 6.0 * cos(6.283185307179586 * step / STEPS);
        double wanted = setting[step / (STEPS / PERIODS)];
        int home = step < 480 || step >= 1020;
        if (since >= LEAST_RUN && on && air > wanted + 0.3) { on = 0; since = 0; }
        else if (since >= LEAST_RUN && !on && air < wanted - 0.3) { on = 1; since = 0; }
        since++;
        air += 0.02 * (wall - air) + 0.004 * (outside - air) + 0.25 * on;
        wall += 0.003 * (air - wall) + 0.0008 * (outside - wall);
        run += on;
        if (home) {
            double below = air < 20.0 ? 20.0 - air : 0.0;
            cold += below * below;
            home_steps++;
        }
    }
    answer[0] = run / STEPS;
    answer[1] = cold / home_steps;
}

int main(void) {
    double setting[PERIODS], answer[2];
    while (fread(setting, sizeof(double), PERIODS, stdin) == PERIODS) {
        simulate(setting, answer);
        if (fwrite(answer, sizeof(double), 2, stdout) != 2) return 1;
    }
    return 0;
}
