"""The two ways from eigenvectors to labels that scikit-learn has and does not export, behind one door.

``discretize``: Yu & Shi, ICCV 2003. ``cluster_qr``: Damle, Minden & Ying, 2019.
"""

from sklearn.cluster._spectral import cluster_qr, discretize

__all__ = ["cluster_qr", "discretize"]
