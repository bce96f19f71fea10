"""Power of the rails in the metrics."""

from deploy_jetson.device.daemon.health.power_rails import PowerMonitor
from tests.deploy_jetson.device.daemon.rig import running, settings
from tests.deploy_jetson.device.trees import iio_tree


def test_power_of_the_rails_is_shown_and_a_lost_rail_is_not_zero(tmp_path):
    files = iio_tree(tmp_path / "board")
    with running(settings(tmp_path / "state"), work=False) as rig:
        rig.service.monitor = PowerMonitor(str(tmp_path / "board"))
        text = rig.request("GET", "/metrics")[1].decode()
        files["VDD_SYS_CPU"].unlink()
        files["VDD_SYS_CPU"].mkdir()
        rig.service.monitor = PowerMonitor(str(tmp_path / "board"))
        lost = rig.request("GET", "/metrics")[1].decode()
    assert 'pneumonia_power_watts{rail="VDD_IN"} 9.273\n' in text
    assert text.count("pneumonia_power_watts{") == 9
    assert "VDD_SYS_CPU" not in lost
    assert lost.count("pneumonia_power_watts{") == 8
    assert PowerMonitor(str(tmp_path / "nowhere")).watts() == []
