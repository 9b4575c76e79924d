"""Generates collisions with PYTHIA, looks at them with awkward and numpy, prints one line.

The line depends on the seed alone: whoever runs this from whatever file system must get the same.
"""

import hashlib
import sys
import time

print("started", flush=True)
begin = time.monotonic()

import awkward as ak
import numpy as np
import pythia8mc
import scipy.stats

EVENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 400

pythia = pythia8mc.Pythia("", False)  # its data: PYTHIA8DATA
for setting in (
    "Print:quiet = on",
    "Random:setSeed = on",
    "Random:seed = 20191104",
    "Beams:eCM = 13000.",
    "WeakSingleBoson:ffbar2gmZ = on",
    "PhaseSpace:mHatMin = 60.",
):
    pythia.readString(setting)
if not pythia.init():
    sys.exit("pythia did not start")

momenta, charges = [], []
for _ in range(EVENTS):
    while not pythia.next():
        pass
    final = [particle for particle in pythia.event if particle.isFinal()]
    momenta.append([particle.pT() for particle in final])
    charges.append([particle.charge() for particle in final])

pt = ak.Array(momenta)
charged = pt[ak.Array(charges) != 0]
multiplicity = ak.to_numpy(ak.num(charged))
leading = ak.to_numpy(ak.max(charged, axis=1))
slope = scipy.stats.linregress(multiplicity, leading).slope
digest = hashlib.sha256(np.round(ak.to_numpy(ak.flatten(charged)), 6).tobytes()).hexdigest()

mean = multiplicity.mean()
if not 20 < mean < 400 or not np.isfinite(slope):
    sys.exit(f"not physics: {mean} charged particles a collision, slope {slope}")
print(
    f"result events={EVENTS} charged={multiplicity.sum()} mean={mean:.3f}"
    f" leading={leading.mean():.3f} digest={digest[:16]} seconds={time.monotonic() - begin:.3f}",
    flush=True,
)
