"""Checks a storage tree: what in it is broken, and what is only garbage.

Reading finds what looks wrong, quickly and without locks, while others write: a suspicion.
Each one is looked at again, some time later and with the repository's lock, and only then is it
a finding. So what is wrong is defined once, in :mod:`~alauda_registry.storage.fsck.verdicts`;
all that reading must not do is overlook something.
"""
